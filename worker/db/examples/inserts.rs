//! Inserts a second by this crate alone, beside what the whole server reaches:
//!
//! ```text
//! cargo run --release -p db --example inserts -- FILE.yaml [SECONDS]
//! ```
//! FILE is a configuration with one channel that inserts; its table grows. The password is looked up by its name in the
//! environment. For 1, 4 and 16 connections: each row by itself, and in transactions of 64 where `message_key` is set.

#![allow(clippy::print_stdout, reason = "a command prints")]

use config::{Channel, ColumnKind, ColumnSource};
use db::{Client, Database, Row, Source};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(file) = arguments.next() else {
        eprintln!("usage: inserts FILE.yaml [SECONDS]");
        return ExitCode::from(2);
    };
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5.0);
    match measure(&file, Duration::from_secs_f64(seconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn measure(file: &str, time: Duration) -> Result<(), String> {
    let loaded = config::load(Path::new(file), &|_| true, config::Mode::Check).map_err(|p| p.to_string())?;
    let channel = loaded.config.channels.iter().find(|channel| !channel.db_metadata.is_empty());
    let channel = channel.ok_or("no channel inserts")?;
    let insert = channel.db_insert.as_ref().ok_or("no channel inserts")?;
    let password = insert.password.as_ref().and_then(|name| std::env::var(name.as_str()).ok());
    let database = Database::new(channel, password.as_deref()).ok_or("no channel inserts")?;
    for difference in Client::new(&database).prepare().map_err(|fault| fault.to_string())? {
        eprintln!("{difference}");
    }
    for connections in [1, 4, 16] {
        for together in [1, 64] {
            if together > 1 && insert.message_key.is_none() {
                continue;
            }
            let (rows, took) = run(&database, channel, connections, together, time)?;
            let rate = rows as f64 / took.as_secs_f64();
            println!(
                "{} connections={connections} together={together} inserts={rows} inserts_per_second={rate:.0}",
                insert.driver.name()
            );
        }
    }
    Ok(())
}

fn run(
    database: &Database,
    channel: &Channel,
    connections: usize,
    together: u64,
    time: Duration,
) -> Result<(u64, Duration), String> {
    let began = Instant::now();
    let stop = AtomicBool::new(false);
    let base = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64) << 20;
    let (next, done) = (AtomicU64::new(base), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let work = || {
            let mut client = Client::new(database);
            while !stop.load(Relaxed) {
                let first = next.fetch_add(together, Relaxed);
                let rows: Result<Vec<Row>, String> =
                    (first..first + together).map(|n| row(database, channel, n)).collect();
                for outcome in client.insert_many(&rows?) {
                    outcome.map_err(|fault| fault.to_string())?;
                }
                done.fetch_add(together, Relaxed);
            }
            Ok::<(), String>(())
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a bug".to_owned())))
    })?;
    Ok((done.into_inner(), began.elapsed()))
}

/// A row that fits every column.
fn row(database: &Database, channel: &Channel, number: u64) -> Result<Row, String> {
    let text = |kind| match kind {
        ColumnKind::Integer => "42",
        ColumnKind::DateTime => "20260102030405",
        ColumnKind::String(_) | ColumnKind::Text => "x",
    };
    let value = |name: &str| {
        let filled = |c: &&config::DbColumn| c.variable == name && c.source == ColumnSource::Variable;
        channel.db_metadata.iter().find(filled).map(|c| text(c.kind))
    };
    let now = jiff::Zoned::now().datetime();
    database.table().row(&Source { id: &format!("{number:020}"), value: &value, now })
}
