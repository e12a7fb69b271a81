//! What each message of a channel without steps costs once it is acknowledged: a delivery thread, and the index for `find`.

use super::Bench;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::delivery::Delivery;
use crate::dispatcher::{Dispatcher, NewEntry};
use crate::failed::FailedFolder;
use crate::find_index::{Entry, Indexer, Keys, Outcome};
use crate::folders::Folders;
use crate::peers::Peers;
use crate::plan::Plan;
use crate::sandbox::Sandbox;
use crate::started::Started;
use crate::task_slots::TaskSlots;
use crate::{flags, testing};
use config::Workflow;
use journal::{FileStorage, Ids, Journal, MessageId, Options, Received, Record, Tag};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const TIME_US: i64 = 1_747_041_330_000_000;

/// Puts a line together as the program does, and writes it nowhere.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        black_box(record.args().to_string());
    }

    fn flush(&self) {}
}

impl Bench<'_> {
    /// Read back, looked through for what `find` asks, logged as done.
    pub(super) fn deliver(&self, times: usize) {
        let settings = Arc::new(testing::settings("message_types: {'*': store}\n"));
        let plan = Arc::new(Plan::of(&settings));
        let storage = FileStorage::open(&self.folder.join("journal")).unwrap();
        let mut journal = Journal::open(storage, Options::default(), &mut |_| {}).unwrap().0;
        let dispatcher = Arc::new(Dispatcher::new(&plan, settings.channel.retry, false));
        let mut ids = Ids::new();
        for n in 0..times {
            let id = ids.next(TIME_US as u64 / 1000, n as u64);
            let record = Record::Received(Received {
                id,
                time_us: TIME_US,
                utc_offset_s: 0,
                peer: "192.0.2.17:54321",
                keys: &[n as u64],
                tag: Tag { identity: [1; 16], content: [2; 16] },
                flags: flags::of(Workflow::Store),
                body: &self.adt,
            });
            let location = journal.append(&record).unwrap();
            dispatcher.add([NewEntry {
                id,
                location,
                received_us: TIME_US,
                keys: vec![n as u64],
                steps: plan.steps_of(Workflow::Store),
                strikes: 0,
                suspect: false,
                waits: Vec::new(),
            }]);
        }
        journal.write().unwrap();
        let (committer, outcomes) = crossbeam_channel::unbounded();
        let table = link::SlotTable::create(1).unwrap();
        let delivery = Delivery {
            secrets: BTreeMap::new(),
            database: None,
            dispatcher: Arc::clone(&dispatcher),
            reader: journal.reader(),
            committer,
            failed: Arc::new(FailedFolder::open(&self.folder.join("failed"), |_| false).unwrap()),
            index: Default::default(),
            counters: Arc::new(Counters::new(&plan)),
            started: Started::open(&self.folder.join("started")).unwrap().0,
            slots: Arc::new(TaskSlots::new(table.slots(7), 1)),
            clock: Clock::start(),
            busy: Default::default(),
            sandbox: Arc::new(Sandbox::none()),
            outside: None,
            plan,
            settings,
        };
        // Another test of this process may have set it.
        let _ = log::set_logger(&Lines);
        log::set_max_level(log::LevelFilter::Info);
        let mut folders = Folders::default();
        let mut peers = Peers::new(&delivery.settings, &delivery.secrets, None);
        while let Some(tasks) = dispatcher.try_next(0, TIME_US) {
            let (worked, placed) = delivery.carry_out(tasks, &mut folders, &mut peers);
            delivery.conclude(worked, &placed);
            outcomes.try_iter().for_each(|outcome| drop(black_box(outcome)));
        }
        assert_eq!(dispatcher.open(), 0);
    }

    /// Noted, and written to the index.
    pub(super) fn index(&self, times: usize) {
        let indexer = Indexer {
            channel: self.settings.channel.clone(),
            path: self.folder.join("index.sqlite"),
            open: None,
            failed: Arc::new(FailedFolder::open(&self.folder.join("failed"), |_| false).unwrap()),
        };
        let sender = indexer.start().unwrap();
        sender.note((0..times).map(|n| Entry {
            id: Some(MessageId::new(TIME_US as u64 / 1000, n as u64)),
            received_us: TIME_US + n as i64,
            control_id: format!("{n:012}"),
            message_type: "ADT^A01".to_owned(),
            keys: Keys { patient_id: Some(format!("{}", n * 7919 % 1_000_003)), accession_number: None },
            outcome: Outcome::Done,
            step: None,
            archived: None,
        }));
        sender.stop(Duration::from_secs(60));
    }
}
