//! What the server takes of memory, and how soon it is there.

use super::super::ceilings::EchoProcess;
use super::super::channels::{Purpose, Wanted};
use super::super::load::Shape;
use super::super::own::Own;
use super::super::process::{peak_bytes, private_bytes, resident_bytes};
use super::super::template::{Kind, Template};
use super::line::{Goal, Line, Unit, figure};
use super::{Bench, Fail, median};
use crate::cli::output::grouped;
use rustix::net;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

const MIB: f64 = 1_048_576.0;
const STARTS: usize = 9;
/// Messages that wait; a million are what the goal is of, `--messages 1000000`.
const WAITING: u64 = 200_000;
/// A worker opens its index that late after its start, and until then has a list of what waits for it.
const INDEX_OPENS_WITHIN: Duration = Duration::from_secs(6);
/// What a million may take to start with.
const START_WITH_A_MILLION: Duration = Duration::from_secs(2);

pub(super) fn start(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("start to first AA");
    let wanted = Wanted::of(&[Purpose::Archive], 16, 1 << 20);
    let mut took = Vec::new();
    for _ in 0..STARTS {
        took.push(bench.start(&wanted)?.start_to_first_ack().as_secs_f64() * 1e6);
    }
    let most = took.iter().copied().fold(0.0, f64::max);
    let line =
        Line::amount("start", "start to first AA", Unit::Microseconds, median(took), Goal::AtMost(15_000.0));
    Ok(vec![line.note(format!("median of {STARTS}, the longest {}", figure(Unit::Microseconds, most)))])
}

pub(super) fn idle(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("memory when idle");
    let own = bench.start(&Wanted::of(&[Purpose::Archive, Purpose::Second], 16, 1 << 20))?;
    let worker = idle_worker(&own)?;
    let master = resident_bytes(own.master()).ok_or_else(gone)?;
    Ok(vec![
        Line::amount("idle", "an idle worker, private", Unit::Bytes, worker as f64, Goal::AtMost(4.0 * MIB)),
        Line::amount("idle", "the master, resident", Unit::Bytes, master as f64, Goal::AtMost(6.0 * MIB)),
    ])
}

/// The worker that has never had a message: the smallest.
fn idle_worker(own: &Own) -> Result<u64, Fail> {
    own.workers().into_iter().filter_map(private_bytes).min().ok_or_else(gone)
}

fn gone() -> Fail {
    Fail::Failed("the server's processes have gone".to_owned())
}

/// The sum of every process's own peak: what they share counts twice, and no moment is missed.
pub(super) fn sixteen_large_senders(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("memory with 16 senders of 4 MiB");
    let template = Template::of(Kind::Oru, 3 << 20, bench.run());
    let shape = Shape::closed(16, 1, bench.messages(160), Duration::from_secs(60));
    let mut own = bench.start(&Wanted::of(&[Purpose::Archive], 16, template.message_bytes()))?;
    let server = own.measure("ADT, 16 × 4 MiB", Purpose::Archive, &template, &shape)?;
    let peak: u64 = own.processes().into_iter().filter_map(peak_bytes).sum();
    drop(own);
    let failed = |error: std::io::Error| Fail::io("measure the memory of an echo", &error);
    let echo = EchoProcess::start().map_err(failed)?;
    super::super::load(echo.address, &template, &Shape { check: false, ..shape }, 0)?;
    let echo_peak = echo.peak_bytes().ok_or_else(gone)?;
    let goal = Goal::Amount(160.0 * MIB);
    let line =
        Line::amount("memory", "16 senders of 4 MiB, peak of all processes", Unit::Bytes, peak as f64, goal);
    Ok(vec![line.beside("echo", echo_peak as f64).from([server])])
}

/// Their peer is down.
pub(super) fn waiting(bench: &Bench) -> Result<Vec<Line>, Fail> {
    let messages = bench.messages(WAITING);
    bench.say("messages that wait for a peer that is down");
    let (_taken, peer) = closed_port()?;
    // The second channel is there for what a worker takes that has nothing to do.
    let purposes = [Purpose::Second, Purpose::Forward];
    let wanted = Wanted { peer: Some(peer), ..Wanted::of(&purposes, 16, 1 << 20) };
    let mut own = bench.start(&wanted)?;
    let template = Template::of(Kind::Adt, 750, bench.run());
    let shape = Shape::closed(16, 16, messages, Duration::from_secs(300));
    let outcome = super::super::load(own.to(Purpose::Forward), &template, &shape, 0)?;
    let took = own.restart_to(Purpose::Forward)?;
    let waiting = own.waiting(Purpose::Forward)?;
    if waiting < outcome.acknowledged {
        return Err(Fail::Failed(format!("of {} messages only {waiting} wait", outcome.acknowledged)));
    }
    std::thread::sleep(INDEX_OPENS_WITHIN);
    let idle = idle_worker(&own)?;
    let with = own.workers().into_iter().filter_map(private_bytes).max().ok_or_else(gone)?;
    let each = with.saturating_sub(idle) as f64 / waiting.max(1) as f64;
    // A smaller number has a smaller share of the time, but for what any start takes.
    let most = START_WITH_A_MILLION.as_secs_f64() * 1e6 * (messages as f64 / 1e6).clamp(0.05, 1.0);
    let count = grouped(messages);
    Ok(vec![
        Line::amount(
            "waiting",
            format!("{count} messages waiting: start to an AA"),
            Unit::Microseconds,
            took.as_secs_f64() * 1e6,
            Goal::AtMost(most),
        ),
        Line::amount(
            "waiting",
            format!("{count} messages waiting: memory of each"),
            Unit::Bytes,
            each,
            Goal::AtMost(128.0),
        ),
    ])
}

/// A port that is taken by a socket that does not listen: whoever connects is refused.
pub(in super::super) fn closed_port() -> Result<(OwnedFd, SocketAddr), Fail> {
    let taken = || -> rustix::io::Result<_> {
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let address = net::getsockname(&socket)?;
        Ok((socket, SocketAddr::try_from(address)?))
    };
    taken().map_err(|error| Fail::io("take a port", &error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_and_does_not_listen_refuses() {
        let (_taken, peer) = closed_port().unwrap();
        let refused = std::net::TcpStream::connect(peer).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
