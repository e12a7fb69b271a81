//! Bits that changed on disk: found, reported, kept aside, and nothing else lost.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::IoSlice;

use journal::storage::faulty::{Faulty, Random};
use journal::storage::{File, Storage};
use journal::{DamageKind, JournalError, Location, Record, SEGMENT_BYTES};
use support::{body, id, numbers, open, receive};

fn segment(location: Location) -> String {
    format!("{:010}.seg", location.segment)
}

/// Ten messages, each flushed.
fn ten(disk: &Faulty) -> Vec<Location> {
    let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
    (0..10)
        .map(|n| {
            let location = receive(&mut journal, n, &body(n, 700));
            journal.flush().unwrap();
            location
        })
        .collect()
}

#[test]
fn a_bad_record_in_the_middle_is_reported_and_later_ones_are_kept() {
    for part in [2, 9, 40, 400, 790] {
        let disk = Faulty::new();
        let locations = ten(&disk);
        disk.flip(&segment(locations[4]), u64::from(locations[4].offset) + part, 0x10).unwrap();
        let (journal, messages, summary) = open(disk.clone(), SEGMENT_BYTES);
        assert_eq!(numbers(&messages), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        assert_eq!(summary.damage.len(), 1);
        assert_eq!(summary.damage[0].what, DamageKind::Lost { records: 1 });
        assert_eq!(summary.damage[0].offset, u64::from(locations[4].offset));
        assert_eq!(summary.cut_bytes, 0);
        assert!(disk.list().unwrap().contains(&"0000000001.damaged".to_owned()));
        // The damaged file is never written to again.
        assert_eq!(journal.current_segment(), 2);
        drop(journal);
        let (_, again, summary) = open(disk, SEGMENT_BYTES);
        assert_eq!((again, summary.damage.len()), (messages, 1));
    }
}

/// Messages and their ends until several segments have gone on in files of ones that are over; then one that waits,
/// flushed. Returns where that is.
fn reused(disk: &Faulty) -> Location {
    const SEGMENT_BYTES: u32 = 65_536;
    let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
    let mut n = 0;
    while journal.current_segment() < 8 {
        n += 1;
        let location = receive(&mut journal, n, &body(n, 900));
        journal.append(&Record::Done { ids: &[id(n)] }).unwrap();
        journal.flush().unwrap();
        journal.ended(location);
        journal.retire().unwrap();
        // The first two have none before them that is over.
        let length = disk.open(&segment(location)).unwrap().length().unwrap();
        let is_reused = length > u64::from(SEGMENT_BYTES / 2);
        assert!(location.offset > 4096 || is_reused == (location.segment > 2), "{location:?}: {length}");
    }
    let location = receive(&mut journal, 2000, &body(1, 900));
    journal.flush().unwrap();
    location
}

#[test]
fn what_a_file_held_before_is_neither_found_nor_cut() {
    let disk = Faulty::new();
    let last = reused(&disk);
    let length = disk.open(&segment(last)).unwrap().length().unwrap();
    let (mut journal, messages, summary) = open(disk.clone(), 65_536);
    assert_eq!((numbers(&messages), summary.cut_bytes, summary.damage.len()), (vec![2000], 0, 0));
    // Goes on in it.
    assert_eq!(receive(&mut journal, 2001, &body(2, 900)).segment, last.segment);
    journal.flush().unwrap();
    assert_eq!(disk.open(&segment(last)).unwrap().length().unwrap(), length);
    drop(journal);
    assert_eq!(numbers(&open(disk, 65_536).1), [2000, 2001]);
}

#[test]
fn a_torn_record_in_a_file_used_again_is_cut_and_counted() {
    let disk = Faulty::new();
    let last = reused(&disk);
    disk.flip(&segment(last), u64::from(last.offset) + 500, 0x10).unwrap();
    let (_, messages, summary) = open(disk.clone(), 65_536);
    assert_eq!((numbers(&messages), summary.damage.len()), (vec![], 0));
    assert_eq!(summary.cut_bytes, u64::from(last.length));
}

#[test]
fn a_torn_tail_is_cut_and_counted() {
    let disk = Faulty::new();
    let locations = ten(&disk);
    let last = locations[9];
    let file = disk.open(&segment(last)).unwrap();
    file.set_length(u64::from(last.offset) + 300).unwrap();
    let (mut journal, messages, summary) = open(disk.clone(), SEGMENT_BYTES);
    assert_eq!(numbers(&messages), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((summary.cut_bytes, summary.damage.len()), (300, 0));
    assert_eq!(file.length().unwrap(), u64::from(last.offset));
    receive(&mut journal, 10, &body(10, 10));
    journal.flush().unwrap();
    drop(journal);
    let (_, messages, summary) = open(disk, SEGMENT_BYTES);
    assert_eq!((numbers(&messages).last(), summary.cut_bytes), (Some(&10), 0));
}

#[test]
fn a_hole_in_what_was_not_flushed_costs_nothing_else() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
    let locations: Vec<_> = (0..10).map(|n| receive(&mut journal, n, &body(n, 700))).collect();
    journal.write().unwrap();
    drop(journal);
    disk.flip(&segment(locations[4]), u64::from(locations[4].offset) + 100, 1).unwrap();
    let (_, messages, summary) = open(disk.clone(), SEGMENT_BYTES);
    assert_eq!(numbers(&messages), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    assert_eq!(summary.damage[0].what, DamageKind::LostUnflushed { records: 1 });
    // Copied on, it is whole from now on, and safe.
    let (_, again, summary) = open(disk.after_power_cut(1), SEGMENT_BYTES);
    assert_eq!((numbers(&again), summary.damage.len()), (numbers(&messages), 0));
}

#[test]
fn a_waiting_body_that_changed_in_a_sealed_segment_is_reported() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), 65_536);
    let locations: Vec<_> = (0..10).map(|n| receive(&mut journal, n, &body(n, 30_000))).collect();
    journal.flush().unwrap();
    journal.retire().unwrap();
    drop(journal);
    disk.flip(&segment(locations[2]), u64::from(locations[2].offset) + 1000, 1).unwrap();
    let (journal, messages, summary) = open(disk.clone(), 65_536);
    assert_eq!(messages.len(), 10);
    assert_eq!(summary.damage[0].what, DamageKind::Body { id: id(2) });
    assert!(disk.list().unwrap().contains(&segment(locations[2]).replace("seg", "damaged")));
    let reader = journal.reader();
    assert!(matches!(reader.read(locations[2]), Err(JournalError::Corrupt { .. })));
    assert_eq!(reader.read(locations[3]).unwrap().body, body(3, 30_000));
}

#[test]
fn a_file_found_damaged_while_running_is_put_aside_once() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
    let location = receive(&mut journal, 1, &body(1, 700));
    journal.flush().unwrap();
    disk.flip(&segment(location), u64::from(location.offset) + 200, 1).unwrap();
    assert!(matches!(journal.reader().read(location), Err(JournalError::Corrupt { .. })));
    journal.put_aside(location.segment);
    journal.put_aside(location.segment);
    journal.retire().unwrap();
    assert_eq!(disk.list().unwrap(), ["0000000001.damaged", "0000000001.seg"]);
}

#[test]
fn a_segment_without_a_header_is_put_aside_and_the_others_are_kept() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), 65_536);
    for n in 0..10 {
        receive(&mut journal, n, &body(n, 30_000));
        journal.flush().unwrap();
    }
    drop(journal);
    for at in [3, 2051] {
        disk.flip("0000000002.seg", at, 1).unwrap();
    }
    let (_, messages, summary) = open(disk.clone(), 65_536);
    assert_eq!(numbers(&messages), [0, 1, 4, 5, 6, 7, 8, 9]);
    let kinds: Vec<_> = summary.damage.iter().map(|damage| damage.what.clone()).collect();
    assert_eq!(kinds, [DamageKind::Header, DamageKind::Lost { records: 2 }]);
    let names = disk.list().unwrap();
    assert!(
        names.contains(&"0000000002.damaged".to_owned()) && !names.contains(&"0000000002.seg".to_owned())
    );
}

#[test]
fn a_record_forged_in_a_body_is_never_found() {
    let disk = Faulty::new();
    let locations = ten(&disk);
    // The worst a sender could do: bytes that are a whole record elsewhere in this very segment.
    let mut forged = vec![0; locations[3].length as usize];
    disk.open(&segment(locations[3])).unwrap().read_at(&mut forged, u64::from(locations[3].offset)).unwrap();
    let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
    let text = [vec![0; 4], forged.repeat(4)].concat();
    let location = receive(&mut journal, 50, &text);
    receive(&mut journal, 51, b"");
    journal.append(&Record::Done { ids: &[id(3)] }).unwrap();
    journal.flush().unwrap();
    receive(&mut journal, 52, b"");
    journal.flush().unwrap();
    drop(journal);
    disk.flip(&segment(location), u64::from(location.offset) + 3, 1).unwrap();
    let (_, messages, _) = open(disk, SEGMENT_BYTES);
    assert_eq!(numbers(&messages), [0, 1, 2, 4, 5, 6, 7, 8, 9, 51, 52]);
}

#[test]
fn a_later_format_is_refused_and_left_alone() {
    let disk = Faulty::new();
    ten(&disk);
    let file = disk.open("0000000001.seg").unwrap();
    let mut header = [0; 64];
    file.read_at(&mut header, 0).unwrap();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&[IoSlice::new(&header)], 0).unwrap();
    let opened = journal::Journal::open(disk.clone(), journal::Options::default(), &mut |_| {});
    assert!(matches!(opened, Err(JournalError::Version { version: 2, .. })));
    assert_eq!(disk.list().unwrap(), ["0000000001.seg"]);
}

/// Any few flipped bits: opening succeeds, every message whose own bytes are untouched is handed out with
/// these bytes, and none with others.
#[test]
fn no_flipped_bit_harms_another_message() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let disk = Faulty::new();
        let (mut journal, ..) = open(disk.clone(), 16_384);
        let mut locations = Vec::new();
        for n in 0..60 {
            locations.push(receive(&mut journal, n, &body(n, random.below(900) as usize)));
            if random.percent(30) {
                journal.flush().unwrap();
            }
        }
        journal.flush().unwrap();
        if random.percent(50) {
            journal.retire().unwrap();
        }
        drop(journal);
        let mut hit = BTreeSet::new();
        for _ in 0..1 + random.below(3) {
            // Never both copies of a header: that segment is lost, see above.
            let at = 4096 + random.below(12_000);
            let number = 1 + random.below(4) as u32;
            if disk.flip(&format!("{number:010}.seg"), at, 1 << random.below(8)).is_ok() {
                hit.extend(locations.iter().enumerate().filter_map(|(n, place)| {
                    let range = u64::from(place.offset)..u64::from(place.offset + place.length);
                    (place.segment == number && range.contains(&at)).then_some(n as u64)
                }));
            }
        }
        let (journal, messages, _) = open(disk, 16_384);
        let reader = journal.reader();
        let mut found = BTreeSet::new();
        for message in messages {
            let n = message.id.unix_ms();
            match reader.read(message.location) {
                Ok(received) => assert_eq!(received.body.len(), body(n, received.body.len()).len()),
                Err(JournalError::Corrupt { .. }) => assert!(hit.contains(&n), "seed {seed}: {n}"),
                Err(error) => panic!("seed {seed}: {error}"),
            }
            found.insert(n);
        }
        let missing: Vec<u64> = (0..60).filter(|n| !found.contains(n) && !hit.contains(n)).collect();
        assert!(missing.is_empty(), "seed {seed}: {missing:?} lost, {hit:?} hit");
    }
}
