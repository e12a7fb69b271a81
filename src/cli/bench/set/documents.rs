//! ORUs with a PDF: acknowledged, stamped, archived as message and as PDF, dropped. Beside them `copy`: reading the same
//! PDF and writing what such a message writes.

use super::super::channels::{Purpose, Wanted};
use super::super::process::cpu_of;
use super::super::template::{Kind, Template, pdf};
use super::super::{ceilings, output};
use super::line::{Goal, Line, Unit, figure};
use super::{Bench, Fail, median};
use crate::cli::mllp::Client;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pairs of a message and a flush, in turn.
const PAIRS: u64 = 11;
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn hundred_kib(bench: &Bench) -> Result<Vec<Line>, Fail> {
    documents(bench, "oru-100k", "ORU with 100 KiB", 100 << 10, 6_000, 0.40)
}

pub(super) fn one_mib(bench: &Bench) -> Result<Vec<Line>, Fail> {
    documents(bench, "oru-1m", "ORU with 1 MiB", 1 << 20, 600, 0.65)
}

fn documents(
    bench: &Bench,
    name: &'static str,
    work: &'static str,
    size: usize,
    most: u64,
    least: f64,
) -> Result<Vec<Line>, Fail> {
    bench.say(work);
    let template = Template::of(Kind::Oru, size, bench.run());
    let shape = bench.closed_loop(4, 1, most);
    let wanted = Wanted::of(&[Purpose::Archive, Purpose::Documents], 4, template.message_bytes());
    let mut own = bench.start(&wanted)?;
    let frame = template.frame(0);
    let cpu = cpu_of(std::process::id());
    let copied = Instant::now();
    let copy =
        ceilings::copy(own.folder(), &frame[1..frame.len() - 2], &pdf(size), bench.time(), shape.messages)
            .map_err(|error| Fail::io("write the ceiling's files", &error))?;
    let copies = copy * copied.elapsed().as_secs_f64();
    let copy_cpu = (cpu_of(std::process::id()) - cpu).as_secs_f64() * 1e6 / copies;
    own.settle();
    let server = own.measure(work, Purpose::Documents, &template, &shape)?;
    let (delivered, cpu) = (server.archived_per_s.unwrap_or(0.0), server.server_cpu_us.unwrap_or(0.0));
    let note = format!(
        "acknowledged {}; processor time {} a message, of copy {}",
        figure(Unit::PerSecond, server.acknowledged_per_s()),
        figure(Unit::Microseconds, cpu),
        figure(Unit::Microseconds, copy_cpu),
    );
    let line = Line::amount(
        name,
        format!("{work}, 4 connections"),
        Unit::PerSecond,
        delivered,
        Goal::AtLeast(least),
    );
    Ok(vec![line.beside("copy", copy).note(note).from([server])])
}

/// One at a time, in turn with the same bytes written and flushed into a new file.
pub(super) fn ten_mib(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("one ORU of 10 MiB");
    // Base64 makes four bytes of three.
    let template = Template::of(Kind::Oru, (10 << 20) / 4 * 3, bench.run());
    let wanted = Wanted::of(&[Purpose::Archive, Purpose::Documents], 1, template.message_bytes());
    let mut own = bench.start(&wanted)?;
    let failed =
        |error: io::Error| Fail::Failed(format!("10 MiB could not be measured: {}", output::plain(&error)));
    let to = own.to(Purpose::Documents).to_string();
    let mut client = Client::connect(&to, None, TIMEOUT).map_err(failed)?;
    let (mut flushes, mut answers) = (Vec::new(), Vec::new());
    // The first of each warms up what all need.
    for n in 0..=PAIRS {
        let frame = template.frame(own.numbers(1));
        let message = &frame[1..frame.len() - 2];
        own.settle();
        let start = Instant::now();
        write_and_flush(&own.folder().join(format!("ceiling.flush.{n}")), message).map_err(failed)?;
        let flush = start.elapsed();
        own.settle();
        let start = Instant::now();
        let answer = client.exchange(message).map_err(failed)?;
        let took = start.elapsed();
        if !answer.windows(7).any(|part| part == b"\rMSA|AA") {
            return Err(failed(io::Error::other(String::from_utf8_lossy(&answer))));
        }
        own.count(Purpose::Documents, 1);
        own.wait_delivered(Purpose::Documents)?;
        if n > 0 {
            flushes.push(flush.as_secs_f64() * 1e6);
            answers.push(took.as_secs_f64() * 1e6);
        }
    }
    match own.missing(Purpose::Documents) {
        0 => {}
        missing => {
            return Err(Fail::Failed(format!("ORU of 10 MiB: {missing} files too few or too many came out")));
        }
    }
    let line = Line::amount(
        "oru-10m",
        "an ORU of 10 MiB to its AA",
        Unit::Microseconds,
        median(answers),
        Goal::AtMost(3.0),
    );
    Ok(vec![line.beside("write, flush", median(flushes))])
}

fn write_and_flush(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o640).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}
