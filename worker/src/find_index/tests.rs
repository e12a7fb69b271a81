//! The index as a whole: what is noted is found, and what is lost comes back.

use super::store::PORTION;
use super::*;
use crate::failed::{FailedMessage, Failure};
use crate::testing::settings;
use std::time::Duration;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
/// 2026-01-02 03:04:05 UTC.
const TIME_US: i64 = 1_767_323_045_000_000;

/// A state folder with one channel, which archives.
struct Site {
    folder: TempDir,
    channel: Channel,
}

impl Site {
    fn new() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("archive");
        let yaml = format!(
            "patient_id_field: PID.1.3.1\nlocal_archive: {{path: {}, format: '%Y/%m'}}",
            archive.display()
        );
        std::fs::create_dir_all(folder.path().join("state/c/failed")).unwrap();
        std::fs::create_dir_all(archive.join("2026/01")).unwrap();
        Site { channel: settings(&yaml).channel, folder }
    }

    fn path(&self) -> PathBuf {
        path(&self.folder.path().join("state"), "c")
    }

    fn start(&self, open: &[MessageId]) -> Sender {
        let failed = FailedFolder::open(&self.folder.path().join("state/c/failed"), |_| false).unwrap();
        let (channel, path, open) = (self.channel.clone(), self.path(), Some(open.to_vec()));
        Indexer { channel, path, open, failed: Arc::new(failed) }.start().unwrap()
    }

    fn find(&self, query: Query) -> Search {
        let query = Query { limit: if query.limit == 0 { 50 } else { query.limit }, ..query };
        search(&self.folder.path().join("state"), "c", &query).unwrap().unwrap()
    }

    /// Until `wanted` messages are found, and the index is complete.
    fn wait(&self, wanted: usize) -> Vec<Found> {
        let end = Instant::now() + LIMIT;
        loop {
            let query = Query { limit: 10_000, ..Query::default() };
            let state = self.folder.path().join("state");
            if let Ok(Some(search)) = search(&state, "c", &query)
                && search.found.len() == wanted
                && !search.incomplete
            {
                return search.found;
            }
            assert!(Instant::now() < end, "{wanted} messages are not found within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An archived file, named in local time.
    fn archive(&self, received_us: i64, control_id: &str, patient: &str) -> PathBuf {
        let zone = jiff::tz::TimeZone::system();
        let local = clock::local(received_us, clock::utc_offset_s(&zone, received_us));
        let name = format!("{}_{control_id}.hl7", clock::file_time(&local));
        let path = self.folder.path().join("archive/2026/01").join(name);
        let text = format!("MSH|^~\\&|A|B|C|D|2026||ADT^A08|{control_id}|P|2.5\rPID|1||{patient}\r");
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn id(n: u64) -> MessageId {
    MessageId::new(TIME_US as u64 / 1000 + n, n)
}

fn entry(n: u64, outcome: Outcome) -> Entry {
    Entry {
        id: Some(id(n)),
        received_us: TIME_US + n as i64 * 1000,
        control_id: format!("C{n}"),
        message_type: "ADT^A08".to_owned(),
        keys: Keys { patient_id: Some(format!("P{}", n % 3)), accession_number: None },
        outcome,
        step: None,
        archived: Some(format!("/archive/2026/01/{n}.hl7").into()),
    }
}

#[test]
fn what_is_noted_is_found_by_every_key() {
    let site = Site::new();
    let sender = site.start(&[]);
    sender.note((0..9).map(|n| entry(n, if n == 4 { Outcome::Failed } else { Outcome::Done })));
    sender.stop(LIMIT);
    let text = |text: &str| Some(text.to_owned());
    let count = |query: Query| site.find(query).found.len();
    assert_eq!(count(Query::default()), 9);
    assert_eq!(count(Query { control_id: text("C4"), ..Query::default() }), 1);
    assert_eq!(count(Query { patient_id: text("P1"), ..Query::default() }), 3);
    assert_eq!(count(Query { patient_id: text("P1"), control_id: text("C5"), ..Query::default() }), 0);
    assert_eq!(count(Query { message_type: text("ADT^A08"), limit: 4, ..Query::default() }), 4);
    assert_eq!(count(Query { outcome: Some(Outcome::Failed), ..Query::default() }), 1);
    assert_eq!(count(Query { outcome: Some(Outcome::Done), ..Query::default() }), 8);
    assert_eq!(count(Query { since_us: Some(TIME_US + 7000), ..Query::default() }), 2);
    assert_eq!(
        count(Query { until_us: Some(TIME_US + 7000), patient_id: text("P0"), ..Query::default() }),
        3
    );
    let by_id = site.find(Query { id: Some(id(4).to_string()), ..Query::default() }).found;
    assert_eq!(by_id[0].archived.as_deref(), Some(Path::new("/archive/2026/01/4.hl7")));
}

#[test]
fn a_message_that_waited_is_one_row_when_it_is_done() {
    let site = Site::new();
    let sender = site.start(&[]);
    sender.note([entry(1, Outcome::Waiting)]);
    site.wait(1);
    sender.note([Entry { archived: None, ..entry(1, Outcome::Done) }]);
    // Overtaken by another thread.
    sender.note([entry(1, Outcome::Waiting)]);
    sender.stop(LIMIT);
    let found = site.find(Query::default()).found;
    assert_eq!((found.len(), found[0].outcome), (1, Outcome::Done));
    assert!(found[0].archived.is_some());
}

#[test]
fn what_a_killed_worker_left_out_is_taken_from_disk() {
    let site = Site::new();
    let now_us = clock::system_us();
    let sender = site.start(&[]);
    let at = |n: u64| Entry { received_us: now_us + n as i64, archived: None, ..entry(n, Outcome::Waiting) };
    sender.note([at(1), at(2), at(3)]);
    site.wait(3);
    // Never stopped: as after kill -9. Meanwhile 1 ended, 2 failed, 3 waits, and 4 came and ended.
    let failed = FailedFolder::open(&site.folder.path().join("state/c/failed"), |_| false).unwrap();
    let failure = Failure { step: "solr", reason: "no", attempts: 1, steps_done: Vec::new() };
    let message = FailedMessage::of(&site.channel, id(2), None, failure);
    failed.keep(id(2), &message, b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|C2|P|2.5\r").unwrap();
    let archived = site.archive(now_us + 4, "C4", "4711");
    let first = site.archive(now_us + 1, "C1", "P1");
    site.start(&[id(3)]).stop(LIMIT);
    let sender = site.start(&[id(3)]);
    let found = site.wait(4);
    let of = |control: &str| found.iter().find(|f| f.control_id == control).unwrap();
    assert_eq!(of("C1").outcome, Outcome::Done);
    assert_eq!(of("C1").archived.as_ref(), Some(&first));
    assert_eq!((of("C2").outcome, of("C2").step.as_deref()), (Outcome::Failed, Some("solr")));
    assert_eq!(of("C3").outcome, Outcome::Waiting);
    assert_eq!((of("C4").outcome, of("C4").id.as_deref()), (Outcome::Archived, None));
    assert_eq!((of("C4").archived.as_ref(), of("C4").patient_id.as_deref()), (Some(&archived), Some("4711")));
    // What was found in the archive gets its id when its message ends after all.
    let late = Entry { received_us: now_us + 4, ..entry(4, Outcome::Done) };
    sender.note([late]);
    sender.stop(LIMIT);
    let found = site.find(Query { control_id: Some("C4".to_owned()), ..Query::default() }).found;
    assert_eq!(
        (found.len(), found[0].outcome, found[0].archived.as_ref()),
        (1, Outcome::Done, Some(&archived))
    );
}

#[test]
fn a_lost_or_damaged_index_is_made_anew() {
    let site = Site::new();
    for n in 0..300 {
        site.archive(TIME_US + n, &format!("C{n}"), "1");
    }
    std::fs::write(site.folder.path().join("archive/2026/01/20260102T030405.000006_x.hl7.part"), "").unwrap();
    std::fs::write(site.folder.path().join("archive/2026/notes.txt"), "").unwrap();
    std::fs::write(site.path(), b"not a database, but long enough to be taken for one for a while").unwrap();
    let run = |what: &str| {
        let sender = site.start(&[]);
        let found = site.wait(300);
        assert!(found.iter().all(|f| f.outcome == Outcome::Archived), "{what}");
        sender.stop(LIMIT);
    };
    run("damaged");
    std::fs::remove_file(site.path()).unwrap();
    run("lost");
    // Damage inside, which opening does not meet.
    let mut bytes = std::fs::read(site.path()).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle..].fill(0xAA);
    std::fs::write(site.path(), bytes).unwrap();
    let sender = site.start(&[]);
    sender.note((1000..1300).map(|n| entry(n, Outcome::Done)));
    site.wait(600);
    sender.stop(LIMIT);
}

#[test]
fn an_index_that_is_taken_away_is_made_anew_at_the_next_message() {
    let site = Site::new();
    let sender = site.start(&[]);
    sender.note([entry(1, Outcome::Done)]);
    site.wait(1);
    std::fs::remove_file(site.path()).unwrap();
    site.archive(TIME_US + 1000, "C1", "1");
    sender.note([entry(2, Outcome::Done)]);
    site.wait(2);
    sender.note([entry(3, Outcome::Done)]);
    site.wait(3);
    sender.stop(LIMIT);
}

#[test]
fn more_than_is_queued_is_let_go_and_taken_from_the_archive() {
    let shared = Arc::new(Shared::default());
    let sender = Sender(Arc::clone(&shared));
    sender.note((0..QUEUED_MAX as u64 + 7).map(|n| entry(n, Outcome::Done)));
    let state = shared.lock();
    assert_eq!(state.notes.len(), QUEUED_MAX);
    assert_eq!(state.let_go_us, Some(TIME_US + QUEUED_MAX as i64 * 1000));
}

#[test]
fn a_folder_that_cannot_be_written_holds_nobody_up() {
    let site = Site::new();
    std::fs::create_dir(site.path()).unwrap();
    let sender = site.start(&[]);
    let begun = Instant::now();
    for n in 0..1000 {
        sender.note([entry(n, Outcome::Done)]);
    }
    sender.stop(LIMIT);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn rows_go_with_the_archive_but_what_failed_or_waits_stays() {
    let site = Site::new();
    let mut store = Store::open(&site.path()).unwrap();
    let days = |days: i64| TIME_US - days * 86_400_000_000;
    let old = (0..PORTION as u64 + 10).map(|n| Entry { received_us: days(31), ..entry(n, Outcome::Done) });
    let kept = [
        Entry { received_us: days(29), ..entry(5000, Outcome::Done) },
        Entry { received_us: days(99), ..entry(5001, Outcome::Failed) },
        Entry { received_us: days(99), ..entry(5002, Outcome::Waiting) },
    ];
    let notes: Vec<Note> = old.chain(kept).map(|entry| Note::Message(Box::new(entry))).collect();
    store.write(&notes).unwrap();
    let mut channel = site.channel.clone();
    channel.local_archive.as_mut().unwrap().retention_days = Some(30);
    store.prune(&channel, TIME_US).unwrap();
    store.close();
    let mut left: Vec<String> = site.find(Query::default()).found.into_iter().map(|f| f.control_id).collect();
    left.sort();
    assert_eq!(left, ["C5000", "C5001", "C5002"]);
}

#[test]
fn a_hostile_value_is_cut_and_still_found() {
    let site = Site::new();
    let sender = site.start(&[]);
    let long = "ü".repeat(4000);
    sender.note([Entry { control_id: long.clone(), ..entry(1, Outcome::Done) }]);
    sender.note([Entry { control_id: "'; DROP TABLE message; --".to_owned(), ..entry(2, Outcome::Done) }]);
    sender.stop(LIMIT);
    for control_id in [long, "'; DROP TABLE message; --".to_owned()] {
        let found = site.find(Query { control_id: Some(control_id), ..Query::default() }).found;
        assert_eq!(found.len(), 1);
        assert!(found[0].control_id.len() <= VALUE_BYTES_MAX);
    }
}

/// `cargo test --release -p worker a_million -- --ignored --nocapture` prints the figures.
#[test]
#[ignore = "takes a minute; the figures mean something in a release build only"]
fn a_million_messages_are_searched_in_a_tenth_of_a_second() {
    const MESSAGES: u64 = 1_000_000;
    let site = Site::new();
    let begun = Instant::now();
    let mut store = Store::open(&site.path()).unwrap();
    let mut dice = 7u64;
    for portion in 0..MESSAGES / PORTION as u64 {
        let notes: Vec<Note> = (0..PORTION as u64)
            .map(|n| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let n = portion * PORTION as u64 + n;
                let outcome = if n.is_multiple_of(1000) { Outcome::Failed } else { Outcome::Done };
                let keys = Keys {
                    patient_id: Some((dice >> 46).to_string()),
                    accession_number: Some((dice >> 40).to_string()),
                };
                // A sender that numbers nothing: the worst that a control id can be.
                let control_id = if n.is_multiple_of(2) { "1".to_owned() } else { format!("MSG{n:08}") };
                Note::Message(Box::new(Entry { keys, control_id, ..entry(n, outcome) }))
            })
            .collect();
        store.write(&notes).unwrap();
    }
    store.close();
    let took = begun.elapsed();
    let size = std::fs::metadata(site.path()).unwrap().len() >> 20;
    eprintln!("{MESSAGES} messages written in {took:.1?}, {size} MiB");
    let text = |text: &str| Some(text.to_owned());
    let patient = site.find(Query::default()).found[0].patient_id.clone();
    let queries = [
        ("control id", Query { control_id: text("MSG00500001"), ..Query::default() }),
        ("control id of half of them", Query { control_id: text("1"), ..Query::default() }),
        ("both of these", Query { control_id: text("1"), patient_id: patient.clone(), ..Query::default() }),
        ("patient id", Query { patient_id: patient, ..Query::default() }),
        ("accession number", Query { accession_number: text("12345"), ..Query::default() }),
        ("time", Query { since_us: Some(TIME_US), until_us: Some(TIME_US + 9_000_000), ..Query::default() }),
        ("outcome", Query { outcome: Some(Outcome::Failed), ..Query::default() }),
        ("nothing", Query::default()),
        (
            "failed of a type",
            Query { outcome: Some(Outcome::Failed), message_type: text("ADT^A08"), ..Query::default() },
        ),
    ];
    for (what, query) in queries {
        let begun = Instant::now();
        let found = site.find(query).found.len();
        let took = begun.elapsed();
        eprintln!("by {what}: {found} found in {took:.1?}");
        assert!(took < Duration::from_millis(100), "by {what}: {took:?}");
    }
}
