//! Steps that have to wait, under load: each patient's messages pass the step in order all the same.

use crate::count;
use crate::senders::{LONGEST, Senders};
use crate::support::dice::Dice;
use crate::verdict::drained;
use crate::ward::Ward;
use rusqlite::Connection;
use std::fs;
use std::path::Path;
use std::time::Duration;

#[test]
fn steps_that_waited_for_a_table_or_a_folder_are_carried_out_in_order() {
    let outages = count("OUTAGES", 3, 60);
    let mut dice = Dice::thrown();
    let ward = Ward::start();
    let senders = Senders::start(&ward.ledger, &ward.streams());
    senders.wait_for_more(50);
    for n in 0..outages {
        let time = Duration::from_millis(1500 + dice.below(1500) as u64);
        match n % 3 {
            0 => locked_for(&ward.site.path("rows/rows.sqlite"), time),
            1 => away_for(&ward.site.path("ward"), time),
            _ => away_for(&ward.site.path("archive/adt"), time),
        }
        senders.wait_for_more(50);
    }
    senders.finish();
    drained(&ward.site, LONGEST);
    let acknowledged = ward.checker().balances().number("acknowledged");
    eprintln!(
        "TORTURE outages: {outages}, {acknowledged} acknowledged, none out of order, seed {}",
        dice.seed
    );
}

/// Somebody else writes in the database for that long.
fn locked_for(file: &Path, time: Duration) {
    let other = Connection::open(file).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::sleep(time);
    other.execute_batch("ROLLBACK").unwrap();
}

/// A file stands where a folder was for that long.
fn away_for(folder: &Path, time: Duration) {
    let aside = folder.with_extension("aside");
    fs::rename(folder, &aside).unwrap();
    fs::write(folder, "").unwrap();
    std::thread::sleep(time);
    fs::remove_file(folder).unwrap();
    fs::rename(&aside, folder).unwrap();
}
