//! What appending, flushing, reading and replaying cost. `cargo bench -p journal [-- FOLDER]` writes some
//! gigabytes into FOLDER (a temporary one otherwise): put it on a journaled ext4 for figures that count.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use journal::{FileStorage, Ids, Journal, Location, MessageId, Options, Received, Record, Tag};

fn received<'a>(id: MessageId, body: &'a [u8]) -> Record<'a> {
    Record::Received(Received {
        id,
        time_us: id.unix_ms() as i64 * 1000,
        utc_offset_s: 0,
        peer: "192.0.2.17:54321",
        keys: &[7],
        tag: Tag { identity: [1; 16], content: [2; 16] },
        flags: 0,
        body,
    })
}

fn open(path: &Path) -> Journal {
    Journal::open(FileStorage::open(path).unwrap(), Options::default(), &mut |_| {}).unwrap().0
}

fn per(what: &str, count: usize, begun: Instant) {
    let spent = begun.elapsed().as_secs_f64();
    println!("{what}: {:.3} us each, {:.0}/s", spent * 1e6 / count as f64, count as f64 / spent);
}

/// Appends alone, into batches of 1,000 that are written but not flushed.
fn append(path: &Path) {
    let mut journal = open(path);
    let mut ids = Ids::new();
    let body = vec![b'x'; 750];
    const COUNT: usize = 200_000;
    let mut appending = 0.0;
    let begun = Instant::now();
    for _ in 0..COUNT / 1000 {
        let batch = Instant::now();
        for n in 0..1000 {
            journal.append(&received(ids.next(1_700_000_000_000, n), &body)).unwrap();
        }
        appending += batch.elapsed().as_secs_f64();
        journal.write().unwrap();
    }
    per("append 750 B and write in batches of 1,000", COUNT, begun);
    println!("append 750 B alone: {:.3} us each", appending * 1e6 / COUNT as f64);
    let begun = Instant::now();
    let large = vec![b'x'; 10 << 20];
    for n in 0..20 {
        journal.append(&received(ids.next(1_700_000_000_000, n), &large)).unwrap();
    }
    println!("append 10 MiB: {:.0} MB/s", 20.0 * 10.485_76 / begun.elapsed().as_secs_f64());
    journal.flush().unwrap();
}

/// Group commit: batches of a size, each flushed.
fn commit(path: &Path, batch: usize, filler: bool) {
    let mut journal = open(path);
    let mut ids = Ids::new();
    let body = vec![b'x'; 750];
    std::thread::scope(|scope| {
        let filler = filler.then(|| journal.filler());
        scope.spawn(move || {
            if let Some(filler) = filler {
                while filler.step().unwrap() {}
            }
        });
        let begun = Instant::now();
        let mut count = 0;
        let mut waits: Vec<f64> = Vec::new();
        while begun.elapsed().as_secs_f64() < 2.0 {
            let one = Instant::now();
            for _ in 0..batch {
                journal.append(&received(ids.next(1_700_000_000_000, count as u64), &body)).unwrap();
                count += 1;
            }
            journal.flush().unwrap();
            waits.push(one.elapsed().as_secs_f64());
        }
        waits.sort_by(f64::total_cmp);
        let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize] * 1e3;
        println!("batches of {batch}: p50 {:.3} ms, p99 {:.3} ms", at(0.5), at(0.99));
        per("  messages flushed", count, begun);
        drop(journal);
    });
}

/// 1,000,000 messages of which every 100th still waits.
fn replay(path: &Path, bytes: usize, sealed: bool) {
    const COUNT: usize = 1_010_000;
    {
        let mut journal = open(path);
        let mut ids = Ids::new();
        let body = vec![b'x'; bytes];
        let mut running: Vec<(MessageId, Location)> = Vec::new();
        let filler = journal.filler();
        for n in 0..COUNT {
            let id = ids.next(1_700_000_000_000, n as u64);
            running.push((id, journal.append(&received(id, &body)).unwrap()));
            if running.len() == 64 {
                let ids: Vec<MessageId> = running.iter().map(|(id, _)| *id).collect();
                journal.append(&Record::Started { ids: &ids }).unwrap();
                let done: Vec<MessageId> = (n - 63..=n)
                    .zip(&running)
                    .filter(|(n, _)| n % 101 != 0)
                    .map(|(_, (id, _))| *id)
                    .collect();
                journal.append(&Record::Done { ids: &done }).unwrap();
                running.clear();
            }
            if n % 10_000 == 0 {
                journal.flush().unwrap();
                while sealed && filler.try_step().unwrap() {}
            }
        }
        journal.flush().unwrap();
        while sealed && filler.try_step().unwrap() {}
        println!("journal of {COUNT} messages of {bytes} B: {} MB", journal.bytes() / 1_000_000);
    }
    for _ in 0..3 {
        let begun = Instant::now();
        let mut open = 0;
        let storage = FileStorage::open(path).unwrap();
        let (journal, summary) = Journal::open(storage, Options::default(), &mut |_| open += 1).unwrap();
        println!(
            "replay (sealed {sealed}): {:.3} s, {open} open, {} segments, {} records, peak {} KiB",
            begun.elapsed().as_secs_f64(),
            summary.segments,
            summary.records,
            peak_kib()
        );
        drop(journal);
    }
    let mut locations = Vec::new();
    let storage = FileStorage::open(path).unwrap();
    let (journal, _) =
        Journal::open(storage, Options::default(), &mut |message| locations.push(message.location)).unwrap();
    let reader = journal.reader();
    let begun = Instant::now();
    for location in &locations {
        assert_eq!(reader.read(*location).unwrap().body.len(), bytes);
    }
    per("read back", locations.len(), begun);
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn main() {
    let folder: Option<PathBuf> =
        std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let place = match &folder {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let path = |name: &str| place.path().join(name);
    append(&path("append"));
    std::fs::remove_dir_all(path("append")).unwrap();
    for (batch, filler) in [(1, false), (1, true), (16, false), (16, true), (256, true)] {
        println!("filler {filler}");
        commit(&path("commit"), batch, filler);
        std::fs::remove_dir_all(path("commit")).unwrap();
    }
    for (bytes, sealed) in [(750, true), (750, false)] {
        replay(&path("replay"), bytes, sealed);
        std::fs::remove_dir_all(path("replay")).unwrap();
    }
}
