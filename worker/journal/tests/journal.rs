//! The journal as its callers see it, over a real folder and over memory.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use journal::storage::faulty::{Fault, Faulty, Operation, Plan};
use journal::storage::memory::Memory;
use journal::storage::{File, Storage};
use journal::{FileStorage, Journal, JournalError, OpenFault, Record, SEGMENT_BYTES, State, read_only};
use support::{body, id, numbers, open, receive, tag};

const STEP: &str = "archive";

#[test]
fn what_was_flushed_waits_in_the_order_received() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("adt/journal");
    let (mut journal, none, summary) = open(FileStorage::open(&path).unwrap(), SEGMENT_BYTES);
    assert!(none.is_empty() && summary.segments == 1 && summary.recent.is_empty());
    for n in [3, 1, 2] {
        receive(&mut journal, n, &body(n, 750));
    }
    let frozen = journal.append(&Record::Frozen { id: id(1), step: STEP, values: b"name" }).unwrap();
    journal.append(&Record::StepDone { id: id(1), step: "solr" }).unwrap();
    let again =
        |attempt, reason| Record::Again { id: id(2), step: STEP, attempt, until_us: 9, since_us: 4, reason };
    journal.append(&again(1, "down")).unwrap();
    journal.append(&again(2, "still down")).unwrap();
    journal.append(&Record::Started { ids: &[id(1), id(2)] }).unwrap();
    journal.append(&Record::Strike { id: id(2), count: 1 }).unwrap();
    journal.append(&Record::Done { ids: &[id(3)] }).unwrap();
    journal.flush().unwrap();
    drop(journal);

    let (journal, messages, summary) = open(FileStorage::open(&path).unwrap(), SEGMENT_BYTES);
    assert_eq!(numbers(&messages), [1, 2]);
    let [first, second] = &messages[..] else { panic!() };
    assert_eq!((first.keys.as_slice(), first.flags, first.time_us), (&[1, 2][..], 5, 1));
    assert_eq!((first.started, first.steps_done.as_slice()), (true, &["solr".to_owned()][..]));
    assert_eq!(first.frozen, [(STEP.to_owned(), frozen)]);
    assert_eq!((second.started, second.strikes, second.again.len()), (false, 1, 1));
    assert_eq!((second.again[0].attempt, second.again[0].reason.as_str()), (2, "still down"));
    assert_eq!((summary.messages_open, summary.cut_bytes, summary.damage.len()), (2, 0, 0));
    let states: Vec<_> = summary.recent.iter().map(|recent| (recent.tag, recent.state)).collect();
    assert_eq!(states, [(tag(3), State::Done), (tag(1), State::Open), (tag(2), State::Open)]);

    let reader = journal.reader();
    let message = reader.read(first.location).unwrap();
    assert_eq!((message.id, message.body, message.utc_offset_s), (id(1), body(1, 750), -3600));
    assert_eq!((message.peer.as_str(), message.tag), ("192.0.2.1:2575", tag(1)));
    assert_eq!(reader.frozen(frozen).unwrap().values, b"name");
    assert!(matches!(reader.frozen(first.location), Err(JournalError::Corrupt { .. })));
}

#[test]
fn a_message_is_found_by_id_while_the_journal_is_written() {
    let place = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(FileStorage::open(place.path()).unwrap(), 16_384);
    for n in 0..100 {
        receive(&mut journal, n, &body(n, 500));
    }
    journal.append(&Record::Failed { id: id(5), step: STEP }).unwrap();
    journal.append(&Record::Done { ids: &[id(6)] }).unwrap();
    journal.flush().unwrap();
    let looker = read_only(place.path()).unwrap();
    assert!(matches!(FileStorage::open(place.path()), Err(OpenFault::Locked)));
    for (n, state) in [(5, State::Failed), (6, State::Done), (99, State::Open)] {
        let found = looker.find(id(n)).unwrap().unwrap();
        assert_eq!((found.state, found.message.body), (state, body(n, 500)));
    }
    assert_eq!(looker.find(id(100)).unwrap(), None);
    let mut waiting = Vec::new();
    looker.messages(&mut |message| waiting.push(message)).unwrap();
    assert_eq!(waiting.len(), 98);
    assert_eq!(looker.read(waiting[0].location).unwrap().unwrap().body, body(0, 500));
}

#[test]
fn a_thread_fills_seals_and_retires_while_others_write_and_read() {
    let place = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(FileStorage::open(place.path()).unwrap(), 1 << 20);
    let reader = journal.reader();
    std::thread::scope(|scope| {
        let filler = journal.filler();
        scope.spawn(move || while filler.step().unwrap() {});
        let (send, receive_locations) = std::sync::mpsc::channel();
        let checker = scope.spawn(move || {
            for (n, location) in receive_locations {
                assert_eq!(reader.read(location).unwrap().body, body(n, (n % 3000) as usize));
            }
        });
        let mut locations = Vec::new();
        for n in 0..4000 {
            locations.push((n, receive(&mut journal, n, &body(n, (n % 3000) as usize))));
            if n % 16 == 15 {
                journal.flush().unwrap();
                for sent in locations.iter().skip((n - 15) as usize) {
                    send.send(*sent).unwrap();
                }
            }
        }
        drop(send);
        checker.join().unwrap();
        for (n, location) in locations.drain(..3900) {
            journal.append(&Record::Done { ids: &[id(n)] }).unwrap();
            journal.write().unwrap();
            journal.ended(location);
        }
        assert!(journal.retire().unwrap() > 3);
        assert_eq!(journal.messages_open(), 100);
        drop(journal);
    });
    let (journal, messages, summary) = open(FileStorage::open(place.path()).unwrap(), 1 << 20);
    assert_eq!(numbers(&messages), (3900..4000).collect::<Vec<_>>());
    assert_eq!((summary.recent.len(), summary.damage.len()), (4000, 0));
    assert!(journal.bytes() < 3 << 20, "{} bytes", journal.bytes());
}

#[test]
fn an_idle_channel_costs_next_to_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(FileStorage::open(place.path()).unwrap(), SEGMENT_BYTES);
    let filler = journal.filler();
    let location = receive(&mut journal, 1, &body(1, 750));
    journal.flush().unwrap();
    while filler.try_step().unwrap() {}
    assert!((64 * 1024..=1024 * 1024).contains(&journal.bytes()), "{} bytes", journal.bytes());
    // And after traffic, once it rests.
    let mut locations = vec![(1, location)];
    for n in 2..3000 {
        locations.push((n, receive(&mut journal, n, &body(n, 3000))));
        journal.flush().unwrap();
        filler.try_step().unwrap();
    }
    assert!(journal.bytes() > 9 << 20);
    assert_eq!(journal.settle(1 << 20).unwrap(), 0);
    for (n, location) in locations {
        journal.append(&Record::Done { ids: &[id(n)] }).unwrap();
        journal.write().unwrap();
        journal.ended(location);
    }
    assert_eq!(journal.settle(1 << 20).unwrap(), 1);
    while filler.try_step().unwrap() {}
    assert!(journal.bytes() <= 1024 * 1024, "{} bytes", journal.bytes());
    assert_eq!(journal.settle(1 << 20).unwrap(), 0);
}

#[test]
fn nothing_is_filled_ahead_of_large_records() {
    let place = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(FileStorage::open(place.path()).unwrap(), SEGMENT_BYTES);
    let filler = journal.filler();
    for n in 1..=8 {
        receive(&mut journal, n, &body(n, 1 << 20));
        journal.flush().unwrap();
        while filler.try_step().unwrap() {}
        // What is done of them in between changes nothing.
        journal.append(&Record::StepDone { id: id(n), step: "archive" }).unwrap();
        journal.write().unwrap();
        while filler.try_step().unwrap() {}
    }
    // Their bytes would be written twice.
    assert!(journal.bytes() < (8 << 20) + (256 << 10), "{} bytes", journal.bytes());
}

#[test]
fn a_large_body_is_flushed_piece_by_piece() {
    for (bytes, pieces) in [(100, 1), (32 << 10, 1), (96 << 10, 3), ((96 << 10) + 1, 4)] {
        let disk = Faulty::new();
        let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
        let before = disk.operations();
        receive(&mut journal, 1, &body(1, bytes));
        journal.flush().unwrap();
        assert_eq!(disk.operations() - before, 2 * pieces, "a write and a flush each of {bytes} bytes");
    }
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let storage = Memory::new();
    let (mut journal, ..) = open(storage.clone(), 65_536);
    let locations: Vec<_> = [100, 300_000, 100, 70_000, 0]
        .iter()
        .enumerate()
        .map(|(n, &bytes)| receive(&mut journal, n as u64, &body(n as u64, bytes)))
        .collect();
    journal.flush().unwrap();
    assert_eq!(locations.iter().map(|at| at.segment).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let reader = journal.reader();
    for (n, bytes) in [100, 300_000, 100, 70_000, 0].into_iter().enumerate() {
        assert_eq!(reader.read(locations[n]).unwrap().body, body(n as u64, bytes));
    }
    // Sealed, their waiting bytes are checked at the start.
    journal.retire().unwrap();
    drop(journal);
    assert_eq!(open(storage, 65_536).1.len(), 5);
}

#[test]
fn segments_stay_within_their_size_with_their_index() {
    let storage = Memory::new();
    let (mut journal, ..) = open(storage.clone(), 65_536);
    for n in 0..3000 {
        receive(&mut journal, n, &body(n, (n % 90) as usize));
    }
    journal.flush().unwrap();
    journal.retire().unwrap();
    let names = storage.list().unwrap();
    assert!(names.len() > 5);
    for name in names {
        let length = storage.open(&name).unwrap().length().unwrap();
        assert!(length <= 65_536, "{name} has {length} bytes");
    }
}

#[test]
fn segments_go_from_the_front_only_and_are_remembered() {
    let storage = Memory::new();
    let (mut journal, ..) = open(storage.clone(), 65_536);
    let locations: Vec<_> = (0..10).map(|n| receive(&mut journal, n, &body(n, 60_000))).collect();
    journal.flush().unwrap();
    journal.append(&Record::Failed { id: id(1), step: STEP }).unwrap();
    let done: Vec<_> = (2..10).chain([0]).map(id).collect();
    journal.append(&Record::Done { ids: &done[..7] }).unwrap();
    journal.flush().unwrap();
    for n in [1, 2, 3, 4, 5] {
        journal.ended(locations[n]);
    }
    assert_eq!(journal.retire().unwrap(), 0);
    journal.append(&Record::Done { ids: &[id(0)] }).unwrap();
    journal.ended(locations[0]);
    assert_eq!(journal.retire().unwrap(), 6);
    assert!(matches!(journal.reader().read(locations[1]), Err(JournalError::Gone { segment: 2 })));
    drop(journal);
    let (_, messages, summary) = open(storage, 65_536);
    assert_eq!(numbers(&messages), [9]);
    let state = |n: u64| summary.recent.iter().find(|recent| recent.id == id(n)).unwrap().state;
    assert_eq!(
        [state(0), state(1), state(5), state(9)],
        [State::Done, State::Failed, State::Done, State::Open]
    );
}

#[test]
fn what_little_waits_in_a_segment_moves_on_and_keeps_its_place() {
    let storage = Memory::new();
    let (mut journal, ..) = open(storage.clone(), 65_536);
    let locations: Vec<_> = (0..200).map(|n| receive(&mut journal, n, &body(n, 2000))).collect();
    journal.append(&Record::StepDone { id: id(3), step: STEP }).unwrap();
    journal.flush().unwrap();
    assert_eq!(journal.sparse(), None);
    for n in (0..150).filter(|&n| n != 3) {
        journal.append(&Record::Done { ids: &[id(n as u64)] }).unwrap();
        journal.ended(locations[n]);
    }
    assert_eq!(journal.sparse(), Some(1));
    let to = journal.append_moved(locations[3]).unwrap();
    journal.append(&Record::StepDone { id: id(3), step: STEP }).unwrap();
    journal.flush().unwrap();
    journal.ended(locations[3]);
    assert!(journal.retire().unwrap() >= 4);
    assert_eq!(journal.reader().read(to).unwrap().body, body(3, 2000));
    drop(journal);
    let (_, messages, _) = open(storage, 65_536);
    assert_eq!(numbers(&messages)[..3], [3, 150, 151]);
    assert_eq!(messages[0].steps_done, [STEP]);
}

#[test]
fn a_group_of_many_ids_is_several_records() {
    let storage = Memory::new();
    let (mut journal, ..) = open(storage.clone(), SEGMENT_BYTES);
    let ids: Vec<_> = (0..10_000).map(id).collect();
    for n in 0..10_000 {
        receive(&mut journal, n, b"");
    }
    journal.append(&Record::Started { ids: &ids }).unwrap();
    journal.append(&Record::Done { ids: &ids[..9_999] }).unwrap();
    journal.flush().unwrap();
    drop(journal);
    let (_, messages, _) = open(storage, SEGMENT_BYTES);
    assert_eq!(numbers(&messages), [9_999]);
    assert!(messages[0].started);
}

#[test]
fn without_room_a_batch_is_taken_back_and_the_next_one_is_kept() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), 65_536);
    // Past what a journal has room for from its opening.
    receive(&mut journal, 1, &body(1, 20_000));
    journal.flush().unwrap();
    disk.set_room(Some(800));
    // Whole records of it reach the file: they must not be found behind the next batch.
    for n in 2..20 {
        receive(&mut journal, n, &body(n, 40));
    }
    assert!(matches!(journal.flush(), Err(JournalError::Full(_))));
    assert_eq!(journal.messages_open(), 1);
    for seed in 0..100 {
        let (_, messages, summary) = open(disk.after_power_cut(seed), 65_536);
        assert_eq!((numbers(&messages), summary.damage), (vec![1], Vec::new()), "seed {seed}");
    }
    receive(&mut journal, 20, &body(20, 40));
    journal.flush().unwrap();
    disk.set_room(None);
    let location = receive(&mut journal, 21, &body(21, 200_000));
    journal.flush().unwrap();
    assert_eq!(journal.reader().read(location).unwrap().body, body(21, 200_000));
    let (_, messages, summary) = open(disk.after_kill(0), 65_536);
    assert_eq!((numbers(&messages), summary.damage), (vec![1, 20, 21], Vec::new()));
}

#[test]
fn without_room_for_a_large_body_or_a_segment_nothing_of_the_batch_is_kept() {
    for room in [0, 5_000, 70_000, 150_000] {
        let disk = Faulty::new();
        let (mut journal, ..) = open(disk.clone(), 65_536);
        disk.set_room(Some(room));
        let message = |journal: &mut Journal<Faulty>, n: u64, bytes: usize| {
            let text = body(n, bytes);
            let record = Record::Frozen { id: id(n), step: STEP, values: &text };
            journal.append(&record).map(drop)
        };
        let batch = (0..8).try_for_each(|n| message(&mut journal, n, 30_000)).and_then(|()| {
            message(&mut journal, 9, 100_000)?;
            journal.flush()
        });
        assert!(matches!(batch, Err(JournalError::Full(_))), "{room}: {batch:?}");
        disk.set_room(None);
        receive(&mut journal, 10, &body(10, 60_000));
        journal.flush().unwrap();
        let (_, messages, summary) = open(disk.after_power_cut(1), 65_536);
        assert_eq!((numbers(&messages), summary.damage), (vec![10], Vec::new()), "{room}");
    }
}

#[test]
fn a_failed_flush_ends_the_handle_and_the_next_start_copies_the_tail() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), 65_536);
    let kept = receive(&mut journal, 1, &body(1, 700));
    journal.flush().unwrap();
    receive(&mut journal, 2, &body(2, 700));
    let once = Plan { after: 0, only: Some(Operation::Sync), fault: Fault::Error(5), lasting: false };
    disk.plan(Some(once));
    assert!(matches!(journal.flush(), Err(JournalError::Io(_))));
    assert!(matches!(journal.flush(), Err(JournalError::Poisoned)));
    assert!(matches!(journal.append(&Record::Retried { id: id(1) }), Err(JournalError::Poisoned)));
    assert_eq!(journal.reader().read(kept).unwrap().id, id(1));
    drop(journal);

    let after = (0..).map(|seed| disk.after_kill(seed)).next().unwrap();
    let (journal, messages, summary) = open(after.clone(), 65_536);
    assert!(summary.after_io_error);
    // Other blocks: the old ones may be bad for good.
    assert_eq!(journal.current_segment(), 2);
    drop(journal);
    // Whatever was handed out is on disk, the kernel's opinion notwithstanding.
    for seed in 0..20 {
        let (_, again, summary) = open(after.after_power_cut(seed), 65_536);
        assert_eq!((numbers(&again), summary.after_io_error), (numbers(&messages), false));
    }
}

#[test]
fn what_opening_hands_out_survives_a_power_cut_even_without_the_marker() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), 65_536);
    receive(&mut journal, 1, &body(1, 700));
    let no_flush = Plan { after: 0, only: Some(Operation::Sync), fault: Fault::Error(5), lasting: false };
    disk.plan(Some(no_flush));
    assert!(journal.flush().is_err());
    disk.remove("io-error").unwrap();
    disk.sync_folder().unwrap();
    let after = (0..).map(|seed| disk.after_kill(seed)).find(|disk| open(disk.clone(), 65_536).1.len() == 1);
    let (_, again, _) = open(after.unwrap().after_power_cut(3), 65_536);
    assert_eq!(numbers(&again), [1]);
}

#[test]
fn an_error_of_the_filler_ends_the_handle() {
    let disk = Faulty::new();
    let (mut journal, ..) = open(disk.clone(), SEGMENT_BYTES);
    let filler = journal.filler();
    receive(&mut journal, 1, &body(1, 700));
    journal.flush().unwrap();
    let once = Plan { after: 0, only: Some(Operation::Sync), fault: Fault::Error(5), lasting: false };
    disk.plan(Some(once));
    assert!(matches!(filler.step(), Err(JournalError::Io(_))));
    receive_fails(&mut journal);
}

fn receive_fails(journal: &mut Journal<Faulty>) {
    assert!(matches!(journal.append(&Record::Retried { id: id(1) }), Err(JournalError::Poisoned)));
}

#[test]
#[should_panic(expected = "ended twice")]
fn a_message_that_ends_twice_is_a_bug() {
    let (mut journal, ..) = open(Memory::new(), SEGMENT_BYTES);
    let location = receive(&mut journal, 1, b"");
    journal.ended(location);
    journal.ended(location);
}
