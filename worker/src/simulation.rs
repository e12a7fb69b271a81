//! A channel's whole life in one thread and no time: the production code of every thread of a worker over a simulated
//! clock, disk, network and peers, with a seeded scheduler in the place of the threads.
//!
//! A seed is a story: senders come, send in pieces, break off, send again; targets go down and come back; the disk fills,
//! fails, and loses what was not flushed; the worker is killed, loses its power, exits on an I/O error, drains, and starts
//! again from what it left. At every step what is seen must be what was promised ([`world`]), and when the trouble ends
//! every message that was acknowledged must end: done, or listed.
//!
//! `WORKER_SIMULATION_SEEDS` sets how many seeds are told (200 otherwise), `WORKER_SIMULATION_FIRST` the first one;
//! `WORKER_SIMULATION_SEED` tells one alone, event by event. The failed and the returned folder are real, in memory where
//! the system has `/dev/shm`; so are the sockets and the table of task slots.

mod life;
mod senders;
mod story;
mod world;

use crate::testing::settings;
use config::WorkerSettings;
use link::SlotTable;
use std::panic::catch_unwind;
use story::{Counts, tell};

/// Channels of different kinds. Nothing of what they name is ever reached.
fn channels() -> Vec<WorkerSettings> {
    let common = "mapping: { patient_id: PID.1.3.1 }\ntasks: 2\n\
         retry: { first: 1s, longest: 60s, give_up: 600s }\n\
         local_archive: { path: /nowhere/archive, attachment: /nowhere/attachments }\n";
    let merges = "db_insert: { driver: SQLite, database: /nowhere/db.sqlite, table: t, message_key: message_id }\n\
         db_metadata: { patient_id: { field_name: patient_id, field_type: String(50) } }\n";
    let resend = |after| format!("resend: {{ server: 127.0.0.1, port: 2575, after_processing: {after} }}\n");
    let documents = "attachment_field: OBX.1.5\nattachment_format: text\n";
    [
        format!("{common}{documents}{}", resend(true)),
        format!("{common}{documents}{merges}{}", resend(false)),
        format!("{common}{documents}ack: processed\n{merges}{}", resend(true)),
        format!("mapping: {{}}\nduplicates: suppress\ntasks: 1\n{}", resend(false)),
    ]
    .iter()
    .map(|lines| settings(lines))
    .collect()
}

/// Says what the worker logs, where one seed is told.
struct Aloud;

impl log::Log for Aloud {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        eprintln!("           {} {}", record.level(), record.args());
    }

    fn flush(&self) {}
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost_repeated_or_out_of_order() {
    let channels = channels();
    let one = setting("WORKER_SIMULATION_SEED");
    let first = one.or_else(|| setting("WORKER_SIMULATION_FIRST")).unwrap_or(1);
    let seeds = if one.is_some() { 1 } else { setting("WORKER_SIMULATION_SEEDS").unwrap_or(200) };
    if one.is_some() {
        log::set_logger(&Aloud).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
    }
    let mut counts = Counts::default();
    // What a killed worker holds of it is leaked on purpose: one table for all.
    let table = SlotTable::create(1).unwrap();
    let mut wrong = Vec::new();
    for seed in first..first + seeds {
        match catch_unwind(|| tell(seed, &channels, &table, one.is_some())) {
            Ok(told) => counts.add(&told),
            Err(_) => wrong.push(seed),
        }
    }
    eprintln!("{seeds} seeds from {first}: {counts}");
    assert!(wrong.is_empty(), "WORKER_SIMULATION_SEED=N tells again what went wrong, N of {wrong:?}");
}

#[test]
fn the_same_seed_is_the_same_story() {
    let channels = channels();
    let table = SlotTable::create(1).unwrap();
    for seed in 1..5 {
        let told = || tell(seed, &channels, &table, false);
        assert_eq!(told(), told(), "seed {seed}");
    }
}
