//! The clock is set, by seconds and by years, forwards and backwards, while the server runs and while it does not.

use crate::count;
use crate::ledger::Ledger;
use crate::senders::{Senders, Stream};
use crate::support::dice::Dice;
use crate::support::messages::adt;
use crate::support::mllp::Peer;
use crate::support::{PATIENCE, Site, process, skip, wait_files, within};
use crate::verdict::{Checker, drained};
use crate::ward;
use serde_json::json;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;
/// What the clock is off by, one after the other.
const STEPS: [i64; 8] = [0, 10 * YEAR, -10 * YEAR, 1, -1, 12 * 3600, -DAY, 0];

/// Workers killed; the back-off of more would be longer than anybody waits.
const KILLS: usize = 6;

/// Builds the library that is the clock, and says how a mount namespace is made to load it. `None` without a compiler.
fn clock(site: &Site) -> Option<String> {
    let library = site.path("clock.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", &format!("-DCLOCK_FILE=\"{}\"", site.text("clock")), "-o"]);
    compiler.arg(&library).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/below/clock.c"));
    if !compiler.status().is_ok_and(|status| status.success()) {
        skip("no C compiler (cc) here");
        return None;
    }
    set(site, 0);
    let etc = site.text("etc");
    std::fs::create_dir(&etc).unwrap();
    Some(format!(
        "mount -t tmpfs -o mode=0755 tmpfs '{etc}'; cp -a /etc/. '{etc}' 2>'{etc}.log' || true; \
         echo '{}' >'{etc}/ld.so.preload'; mount --bind '{etc}' /etc",
        library.display()
    ))
}

/// From now on the server's clock is off by so many seconds.
fn set(site: &Site, seconds: i64) {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(site.path("clock"));
    file.unwrap().write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
}

#[test]
fn a_clock_that_is_set_delays_and_reorders_and_fails_nothing() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["local_archive"]["format"] = json!("day");
    channel["mapping"] = json!({"patient_id": "PID.1.3.1", "control": "MSH.1.10"});
    channel["db_metadata"] = json!({
        "row": {"field_name": "id", "field_type": "Integer", "autoincrement": true},
        "patient_id": {"field_name": "patient", "field_type": "String(50)", "nullable": false},
        "control": {"field_name": "control", "field_type": "String(50)", "nullable": false},
    });
    channel["db_insert"] = json!({
        "driver": "SQLite", "database": site.text("rows/rows.sqlite"), "table": "rows",
        "create_table": true, "message_key": "message_id",
    });
    std::fs::create_dir_all(site.path("rows")).unwrap();
    std::fs::create_dir_all(site.path("archive/adt")).unwrap();
    site.configure(json!({"channels": [channel]}));
    let Some(prepare) = clock(&site) else { return };
    let Some(server) = site.start_prepared(&prepare) else { return };
    let ledger = Arc::new(Ledger::new(&site.path("ledger.jsonl")));
    let (senders, pause) = (4, Duration::from_millis(2));
    let stream = Stream { channel: "adt", port, senders, window: 2, pause, make: ward::adt };
    let clog = site.path("archive/adt/day");
    std::fs::write(&clog, "in the way").unwrap();
    let load = Senders::start(&ledger, &[stream]);
    let mut dice = Dice::thrown();
    // Messages wait for their archive while the clock is set by years: neither forward nor backward may that cost them.
    for step in STEPS {
        load.wait_for_more(5);
        set(&site, step);
        load.wait_for_more(5);
    }
    std::fs::remove_file(&clog).unwrap();
    // How long a message has waited is told by the clock alone once its worker is another.
    within(PATIENCE, "no message waits for another attempt", || {
        let again = |entry: &serde_json::Value| entry["reason"].as_str().is_some_and(|why| !why.is_empty());
        (!site.list(&["queue", "list", "--limit", "500"]).iter().any(again)).then_some(())
    });
    let rounds = count("CLOCK_STEPS", STEPS.len(), 100);
    for round in 0..rounds {
        let some = |dice: &mut Dice| dice.below(20 * YEAR as usize) as i64 - 10 * YEAR;
        let step = STEPS.get(round).copied().unwrap_or_else(|| some(&mut dice));
        set(&site, step);
        if round % 3 == 2 && round < 3 * KILLS {
            // What a worker finds that starts then was received at times that have not come yet, or long ago.
            process::kill(server.worker(port));
        }
        let begun = Instant::now();
        load.wait_for_more(30);
        assert!(begun.elapsed() < PATIENCE, "{step} s off: 30 messages took {:?}", begun.elapsed());
    }
    load.finish();
    drained(&site, PATIENCE);
    let verdict = Checker::of(&ledger)
        .messages("adt/archive", &site.path("archive/adt"))
        .sqlite("adt/rows", &site.path("rows/rows.sqlite"), "rows", "id,control,patient")
        .listed(&site)
        .balances();
    eprintln!(
        "TORTURE clock: set {rounds} times and more, {} acknowledged, none lost",
        verdict.number("acknowledged")
    );
    // It was the server's clock that was set, the workers' too.
    set(&site, 10 * YEAR);
    Peer::connect(port).exchange(&adt("LATER", "P1")).accepts(b"LATER");
    within(PATIENCE, "a file named after a time ten years on", || {
        let names = wait_files(&site.path("archive/adt"), "_LATER.hl7", 1);
        let name = names[0].0.file_name().unwrap().to_str().unwrap().to_owned();
        let year = name[..4].parse::<i64>().unwrap();
        (year >= 2035).then_some(())
    });
}
