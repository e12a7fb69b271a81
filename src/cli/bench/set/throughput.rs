//! How many ADTs a second, and what one costs the processor.

use super::super::channels::{Purpose, Wanted};
use super::super::load::Shape;
use super::super::own::Own;
use super::super::template::{Kind, Template};
use super::line::{Goal, Line, Unit, figure};
use super::{ADTS_MAX, Bench, Fail, Figures, PAIRS};
use crate::cli::output::grouped;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ADT_BYTES: usize = 750;
/// Messages of the burst.
const BURST: u64 = 200_000;
/// How long the sustained load lasts.
const SUSTAINED: Duration = Duration::from_secs(60);
/// What an archived ADT takes of a file system: a block, its inode and its name, the journal's share.
const ROOM_BYTES: u64 = 8 << 10;
/// Files that the ceiling of the sustained load makes.
const FILES_MAX: u64 = 200_000;

fn adt(bench: &Bench) -> Template {
    Template::of(Kind::Adt, ADT_BYTES, bench.run())
}

fn start(bench: &Bench) -> Result<Own, Fail> {
    bench.start(&Wanted::of(&[Purpose::Archive, Purpose::Keep], 16, 1 << 20))
}

pub(super) fn one_connection(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("ADT, 1 connection");
    let template = adt(bench);
    let shape = Shape::closed(1, 1, ADTS_MAX, bench.time() / PAIRS as u32);
    let mut own = start(bench)?;
    let mut lines = Vec::new();
    for (purpose, work) in
        [(Purpose::Keep, "ADT, 1 connection"), (Purpose::Archive, "ADT, 1 connection, archived")]
    {
        let pairs = bench.beside_journal(&mut own, (work, purpose), &template, &shape)?;
        let wanted = (Unit::PerSecond, Goal::AtLeast(0.85));
        let line = Line::of_pairs("adt-1", work, wanted, "journal", &pairs, Figures::acknowledged_per_s);
        lines.push(line.from(pairs.into_iter().flatten()));
    }
    Ok(lines)
}

pub(super) fn sixteen_connections(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("ADT, 16 connections, archived");
    let (template, shape) = (adt(bench), bench.closed_loop(16, 1, ADTS_MAX));
    let mut own = start(bench)?;
    let echo = bench.echo(None, &template, &shape)?;
    let journal = bench.echo(Some(&own), &template, &shape)?;
    own.settle();
    let server = own.measure("ADT, 16 connections", Purpose::Archive, &template, &shape)?;
    let line = Line::amount(
        "adt-16",
        "ADT, 16 connections, archived",
        Unit::PerSecond,
        server.archived_per_s.unwrap_or(0.0),
        Goal::AtLeast(0.40),
    );
    let note = format!(
        "acknowledged {}; echo {}",
        figure(Unit::PerSecond, server.acknowledged_per_s()),
        figure(Unit::PerSecond, echo.acknowledged_per_s())
    );
    Ok(vec![line.beside("journal", journal.acknowledged_per_s()).note(note).from([server])])
}

/// The ticks of the kernel's clock come to a percent of it.
pub(super) fn processor_time(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("processor time of an archived ADT");
    let (template, shape) = (adt(bench), bench.closed_loop(16, 16, ADTS_MAX));
    let mut own = start(bench)?;
    own.settle();
    let server = own.measure("ADT, 16 × 16", Purpose::Archive, &template, &shape)?;
    let cpu = server.server_cpu_us.unwrap_or(0.0);
    let line =
        Line::amount("cpu", "processor time of an archived ADT", Unit::Microseconds, cpu, Goal::AtMost(30.0));
    Ok(vec![line.from([server])])
}

pub(super) fn burst(bench: &Bench) -> Result<Vec<Line>, Fail> {
    let messages = bench.messages(BURST);
    bench.say("a burst of ADTs");
    let template = adt(bench);
    let shape = Shape::closed(16, 16, messages, Duration::from_secs(300));
    let mut own = start(bench)?;
    let mut lines = Vec::new();
    for (purpose, and) in [(Purpose::Keep, ""), (Purpose::Archive, ", archived")] {
        let journal = bench.echo(Some(&own), &template, &shape)?;
        own.settle();
        let server = own.measure("ADT, burst", purpose, &template, &shape)?;
        let work = format!("a burst of {} ADTs, 16 × 16{and}", grouped(messages));
        let acknowledged = server.acknowledged_per_s();
        let line = Line::amount("burst", work, Unit::PerSecond, acknowledged, Goal::AtLeast(0.33));
        let note = format!("delivered {}", figure(Unit::PerSecond, server.archived_per_s.unwrap_or(0.0)));
        lines.push(line.beside("journal", journal.acknowledged_per_s()).note(note).from([server]));
    }
    Ok(lines)
}

pub(super) fn sustained(bench: &Bench) -> Result<Vec<Line>, Fail> {
    let time = bench.arguments.seconds.map_or(SUSTAINED, |seconds| Duration::from_secs(seconds.into()));
    bench.say("ADTs, sustained");
    let template = adt(bench);
    let mut own = start(bench)?;
    let files = bench.files(own.folder(), &template, FILES_MAX)?;
    own.settle();
    let room = room_for(&own)?;
    let shape = Shape::closed(16, 16, bench.messages(room).min(room), time);
    let cpu = own.cpu();
    let (outcome, backlogs) = watched(&own, &template, &shape)?;
    let at_end = own.waiting(Purpose::Archive)?;
    own.numbers(outcome.sent);
    own.count(Purpose::Archive, outcome.acknowledged);
    let seconds = outcome.elapsed.as_secs_f64();
    let archived_per_s = outcome.acknowledged.saturating_sub(at_end) as f64 / seconds;
    own.wait_delivered(Purpose::Archive)?;
    let mut server = Figures::of("ADT, sustained", &template, &shape, &outcome);
    server.archived_per_s = Some(archived_per_s);
    server.backlog_at_end = Some(at_end);
    server.server_cpu_us = Some((own.cpu() - cpu).as_secs_f64() * 1e6 / outcome.acknowledged.max(1) as f64);
    server.files_missing = own.missing(Purpose::Archive);

    // Flat: no higher at the end than half-way, but for what a second brings.
    let halfway = backlogs.get(backlogs.len() / 2).copied().unwrap_or(0);
    let flat = at_end <= halfway + archived_per_s as u64;
    let work = format!("ADT, 16 × 16, {seconds:.0} s sustained, archived");
    let line = Line::amount("sustained", work, Unit::PerSecond, archived_per_s, Goal::AtLeast(0.65));
    let ended = if outcome.sent >= room { "; ended early: no room for more files" } else { "" };
    let note = format!(
        "acknowledged {}; waiting half-way {}, at the end {}: {}{ended}",
        figure(Unit::PerSecond, server.acknowledged_per_s()),
        grouped(halfway),
        grouped(at_end),
        if flat { "flat" } else { "growing" },
    );
    Ok(vec![line.beside("files", files).unless(!flat).note(note).from([server])])
}

/// Runs the load and looks every second at how many messages wait.
fn watched(
    own: &Own,
    template: &Template,
    shape: &Shape,
) -> Result<(super::super::load::Outcome, Vec<u64>), Fail> {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut backlogs = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_secs(1));
                backlogs.extend(own.waiting(Purpose::Archive));
            }
            backlogs
        });
        let outcome = super::super::load(own.to(Purpose::Archive), template, shape, 0);
        ended.store(true, Ordering::Relaxed);
        let backlogs = watcher.join().map_err(|_| Fail::Failed("a thread of bench panicked".to_owned()))?;
        Ok((outcome?, backlogs))
    })
}

/// Messages whose files the file system has room for, with a tenth to spare.
fn room_for(own: &Own) -> Result<u64, Fail> {
    let room = rustix::fs::statvfs(own.folder())
        .map_err(|error| Fail::io("see how much room there is", &error.into()))?;
    let blocks = room.f_bavail.saturating_mul(room.f_frsize) / ROOM_BYTES;
    // A file system that makes its inodes as it goes says that it has none.
    let inodes = if room.f_files == 0 { u64::MAX } else { room.f_favail };
    Ok(blocks.min(inodes) / 10 * 9)
}
