//! How long an answer takes where little is asked, and what somebody else's trouble adds to it.

use super::super::channels::{Purpose, Wanted};
use super::super::load::{self, Shape};
use super::super::own::Own;
use super::super::report::Figures;
use super::super::template::{Kind, Template};
use super::line::{Goal, Line, Unit};
use super::{Bench, Fail, PAIRS};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Messages a second of the load that is watched, and its connections.
const RATE: f64 = 400.0;
const CONNECTIONS: usize = 8;
/// How long each half of a pair is watched.
const HALF: Duration = Duration::from_secs(2);
/// Messages a second to the channel whose peer hangs.
const FORWARDED_RATE: f64 = 50.0;
const LARGE_BYTES: usize = 10 << 20;
/// Large messages a second.
const LARGE_RATE: f64 = 4.0;

fn watched_load() -> Shape {
    Shape::open(CONNECTIONS, RATE, HALF)
}

fn adt(bench: &Bench) -> Template {
    Template::of(Kind::Adt, 750, bench.run())
}

pub(super) fn open_loop(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("400/s over 8 connections");
    let (template, shape) = (adt(bench), watched_load());
    let mut own = bench.start(&Wanted::of(&[Purpose::Archive, Purpose::Keep], CONNECTIONS, 1 << 20))?;
    let mut lines = Vec::new();
    for (purpose, and) in [(Purpose::Keep, ""), (Purpose::Archive, ", archived")] {
        let pairs = bench.beside_journal(&mut own, ("ADT, 400/s", purpose), &template, &shape)?;
        let line = |which: &str, figure_of: fn(&Figures) -> f64| {
            let work = format!("400/s over 8 connections{and}, {which} to the AA");
            let wanted = (Unit::Microseconds, Goal::AtMost(1.5));
            Line::of_pairs("open-loop", &work, wanted, "journal", &pairs, figure_of)
        };
        let p50 = line("p50", |figures| figures.p50_p99_us().0);
        let p99 = line("p99", |figures| figures.p50_p99_us().1);
        lines.extend([p50.from(pairs.into_iter().flatten()), p99]);
    }
    Ok(lines)
}

/// Another channel has the same load in both halves; its peer answers in the one and hangs in the other.
pub(super) fn beside_a_hung_peer(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("p99 beside a channel whose peer hangs");
    let peer = HangingPeer::start()?;
    let purposes = [Purpose::Archive, Purpose::Forward];
    let wanted = Wanted { peer: Some(peer.address), ..Wanted::of(&purposes, CONNECTIONS, 1 << 20) };
    let mut own = bench.start(&wanted)?;
    let other = Other { purpose: Purpose::Forward, template: adt(bench), rate: FORWARDED_RATE };
    let pairs = pairs(bench, &mut own, |own, hang| {
        peer.hang(hang);
        let loads = other.beside(own, &adt(bench), true)?;
        peer.hang(false);
        own.wait_delivered(Purpose::Forward)?;
        Ok(loads)
    })?;
    Ok(vec![compared("hang", "400/s, p99 while another channel's peer hangs", pairs)])
}

/// On the channel that is watched, and on another one.
pub(super) fn beside_large_messages(bench: &Bench) -> Result<Vec<Line>, Fail> {
    let mut lines = Vec::new();
    for (purpose, work) in [
        (Purpose::Archive, "400/s, p99 while 10 MiB messages come in on the channel"),
        (Purpose::Second, "400/s, p99 while 10 MiB messages come in on another"),
    ] {
        bench.say(work);
        let wanted = Wanted::of(&[Purpose::Archive, Purpose::Second], CONNECTIONS + 1, LARGE_BYTES);
        let mut own = bench.start(&wanted)?;
        let large = Template::of(Kind::Adt, LARGE_BYTES, bench.run());
        let other = Other { purpose, template: large, rate: LARGE_RATE };
        let pairs = pairs(bench, &mut own, |own, disturbed| {
            let loads = other.beside(own, &adt(bench), disturbed)?;
            own.wait_delivered(purpose)?;
            Ok(loads)
        })?;
        lines.push(compared("large", work, pairs));
    }
    Ok(lines)
}

/// A load beside the one that is watched.
struct Other {
    purpose: Purpose,
    template: Template,
    rate: f64,
}

impl Other {
    /// Watches the usual load, beside this one where `disturbed`.
    fn beside(&self, own: &mut Own, watched: &Template, disturbed: bool) -> Result<Figures, Fail> {
        let failed = |error: io::Error| Fail::io("go on sending", &error);
        // More than either can send in the time.
        let (first, second) = (own.numbers(100_000), own.numbers(100_000));
        let (to, other) = (own.to(Purpose::Archive), own.to(self.purpose));
        let shape = watched_load();
        let (watched_outcome, other_outcome) = std::thread::scope(|scope| {
            let beside = disturbed.then(|| {
                let shape = Shape { progress: false, ..Shape::open(1, self.rate, HALF) };
                scope.spawn(move || load::run(other, &self.template, &shape, second))
            });
            let outcome = load::run(to, watched, &shape, first);
            (outcome, beside.map(|beside| beside.join().expect("the load's thread does not panic")))
        });
        let outcome = watched_outcome.map_err(failed)?;
        own.count(Purpose::Archive, outcome.acknowledged);
        if let Some(other) = other_outcome {
            own.count(self.purpose, other.map_err(failed)?.acknowledged);
        }
        own.wait_delivered(Purpose::Archive)?;
        let mut figures = Figures::of("ADT, 400/s", watched, &shape, &outcome);
        figures.files_missing = own.missing(Purpose::Archive);
        Ok(figures)
    }
}

/// Undisturbed and disturbed in turn, after one of each that warms up.
fn pairs(
    bench: &Bench,
    own: &mut Own,
    mut half: impl FnMut(&mut Own, bool) -> Result<Figures, Fail>,
) -> Result<Vec<[Figures; 2]>, Fail> {
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        bench.say(&format!("pair {} of {PAIRS}", n + 1));
        own.settle();
        let undisturbed = half(own, false)?;
        own.settle();
        pairs.push([undisturbed, half(own, true)?]);
    }
    Ok(pairs)
}

fn compared(name: &'static str, work: &str, pairs: Vec<[Figures; 2]>) -> Line {
    let wanted = (Unit::Microseconds, Goal::AtMost(2.0));
    Line::of_pairs(name, work, wanted, "undisturbed", &pairs, |figures| figures.p50_p99_us().1)
        .from(pairs.into_iter().flatten())
}

/// A peer that accepts every message, or reads it and says nothing.
struct HangingPeer {
    address: SocketAddr,
    hangs: Arc<AtomicBool>,
}

impl HangingPeer {
    fn start() -> Result<HangingPeer, Fail> {
        let failed = |error: io::Error| Fail::io("listen as a peer", &error);
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let hangs = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&hangs);
        // Ends with the program.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hangs = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &hangs));
            }
        });
        Ok(HangingPeer { address, hangs })
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, hangs: &AtomicBool) -> io::Result<()> {
    let (mut kept, mut chunk) = (Vec::new(), [0; 16 << 10]);
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&chunk[..read]);
        while let Some(end) = kept.windows(2).position(|pair| pair == b"\x1c\r") {
            let frame: Vec<u8> = kept.drain(..end + 2).collect();
            let id = frame.split(|byte| *byte == b'|').nth(9).unwrap_or_default();
            if !hangs.load(Ordering::Relaxed) {
                stream.write_all(&[b"\x0bMSH|^~\\&|PEER\rMSA|AA|", id, b"\r\x1c\r"].concat())?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_answers_until_it_hangs() {
        let peer = HangingPeer::start().unwrap();
        let mut stream = TcpStream::connect(peer.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let message = b"\x0bMSH|^~\\&|A|B|C|D|E||ADT^A01|ID7|P\r\x1c\r";
        let mut answer = [0; 200];
        stream.write_all(message).unwrap();
        let read = stream.read(&mut answer).unwrap();
        assert!(answer[..read].windows(11).any(|part| part == b"MSA|AA|ID7\r"));
        peer.hang(true);
        stream.write_all(message).unwrap();
        assert!(stream.read(&mut answer).is_err());
    }
}
