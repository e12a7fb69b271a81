//! What is broken: a server with one channel that takes every local step (two archives, a drop folder, rows of SQLite),
//! one beside it that must notice nothing, and a sender that sends again what was not answered.

use crate::ledger::{Ledger, Message};
use crate::support::messages::{PDF_FIELD, oru, oru_of};
use crate::support::mllp::{Acknowledgment, Peer, Reply, frame};
use crate::support::{Server, Site, process, within};
use crate::verdict::Checker;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a message may go unacknowledged or undelivered once nothing is broken any more.
pub(super) const HEALED: Duration = Duration::from_secs(60);
/// Patients take turns.
const PATIENTS: usize = 5;

/// A message as its sender knows it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) control: String,
    pub(super) patient: String,
    body: Vec<u8>,
    pdf: Vec<u8>,
}

/// The running server and what its sender was told.
pub(super) struct Rig {
    pub(super) server: Server,
    pub(super) port: u16,
    pub(super) beside: u16,
    /// What was told AA.
    pub(super) sent: Vec<Sent>,
    ledger: Ledger,
    peer: Option<Peer>,
    config: Value,
    // Last, so that it is there while the server ends.
    pub(super) site: Site,
}

impl Rig {
    #[track_caller]
    pub(super) fn start() -> Rig {
        Rig::with_tasks(4)
    }

    /// With so many threads for files.
    #[track_caller]
    pub(super) fn with_tasks(tasks: usize) -> Rig {
        let mut site = Site::new();
        let (port, beside) = (site.port(), site.port());
        let mut channel = site.store_channel("ward", port);
        channel["message_types"] = json!({});
        channel["tasks"] = json!(tasks);
        channel["mapping"] = json!({"patient_id": "PID.1.3.1", "control": "MSH.1.10"});
        channel["patient_id_field"] = json!("PID.1.3.1");
        channel["attachment_field"] = json!(PDF_FIELD);
        channel["attachment_format"] = json!("pdf");
        channel["local_archive"]["attachment"] = json!(site.text("attachment"));
        channel["drop_folders"] = json!({"near": {"path": site.text("near")}});
        channel["retry"] = json!({"first": 0.05, "longest": 0.5, "give_up": "1h"});
        channel["db_insert"] = json!({
            "driver": "SQLite", "database": site.text("data/rows.sqlite"), "table": "rows",
            "create_table": true, "message_key": "message_id",
        });
        channel["db_metadata"] = json!({
            "row": {"field_name": "id", "field_type": "Integer", "autoincrement": true},
            "patient_id": {"field_name": "patient", "field_type": "String(50)", "nullable": false},
            "control": {"field_name": "control", "field_type": "String(50)", "nullable": false},
        });
        for folder in ["data", "archive/ward", "attachment", "near"] {
            std::fs::create_dir_all(site.path(folder)).unwrap();
        }
        let config = json!({"channels": [channel, site.store_channel("beside", beside)]});
        site.configure(config.clone());
        let ledger = Ledger::new(&site.path("ledger.jsonl"));
        let server = site.start();
        Rig { server, port, beside, sent: Vec::new(), ledger, peer: None, config, site }
    }

    /// The worker of the channel that is broken, as soon as there is one.
    #[track_caller]
    pub(super) fn worker(&self) -> u32 {
        self.server.worker(self.port)
    }

    /// Ends the server hard where it still runs, and starts it again: whatever back-off had grown starts over.
    #[track_caller]
    pub(super) fn restart(&mut self) {
        self.server.kill();
        let told = std::fs::metadata(self.site.log_path()).map_or(0, |meta| meta.len());
        self.server.launch_again(&self.site);
        // By its log: asking it costs a process each time, and there are thousands of times.
        within(HEALED, "both channels are ready", || {
            let mut log = String::new();
            let mut file = std::fs::File::open(self.site.log_path()).ok()?;
            file.seek(SeekFrom::Start(told)).ok()?;
            file.read_to_string(&mut log).ok()?;
            let ready = |port| log.contains(&format!("ready on 127.0.0.1:{port}, worker "));
            (ready(self.port) && ready(self.beside)).then_some(())
        });
        self.peer = None;
    }

    /// Writes the file with another number of tasks for the channel, which costs it its worker at the next reload.
    pub(super) fn change(&mut self, turn: usize) {
        self.config["channels"][0]["tasks"] = json!(turn % 2 + 5);
        self.site.configure(self.config.clone());
    }

    /// Whether the master is gone.
    pub(super) fn is_headless(&self) -> bool {
        !process::is_alive(self.server.pid())
    }

    /// Two messages of one patient in one go, their names made of `label`: they are sent, and not yet answered.
    pub(super) fn pair(&self, label: &str) -> [Sent; 2] {
        let patient = format!("P{}", self.sent.len() / 2 % PATIENTS);
        ["a", "b"].map(|half| {
            let control = format!("{label}{half}");
            let (body, pdf) = oru(&control, &patient);
            Sent { control, patient: patient.clone(), body, pdf }
        })
    }

    /// A message with a document of so many bytes.
    pub(super) fn large(&self, control: &str, bytes: usize) -> Sent {
        let patient = "LARGE".to_owned();
        let (body, pdf) = oru_of(bytes, control, &patient);
        Sent { control: control.to_owned(), patient, body, pdf }
    }

    /// Sends over a new connection, whatever becomes of it. The answers are heard later.
    pub(super) fn begin(&mut self, messages: &[Sent]) {
        self.peer = Peer::try_connect(self.port).ok();
        let frames: Vec<u8> = messages.iter().flat_map(|sent| frame(&sent.body)).collect();
        if self.peer.as_mut().is_some_and(|peer| peer.send_raw(&frames).is_err()) {
            self.peer = None;
        }
    }

    /// Hears the answers for `patience`; returns what was not acknowledged. An answer that is not AA fails the test.
    #[track_caller]
    pub(super) fn hear(&mut self, mut messages: Vec<Sent>, patience: Duration) -> Vec<Sent> {
        let end = Instant::now() + patience;
        while !messages.is_empty() {
            let Some(peer) = self.peer.as_mut() else { break };
            match peer.receive(end.saturating_duration_since(Instant::now())) {
                Reply::Frame(answer) => {
                    let sent = messages.remove(0);
                    let answer = Acknowledgment::parse(&answer);
                    answer.accepts(sent.control.as_bytes());
                    self.book(&sent, &answer);
                    self.sent.push(sent);
                }
                Reply::Closed => self.peer = None,
                Reply::Silence => break,
            }
        }
        messages
    }

    /// Sends again, over a new connection, what was not acknowledged, until it is.
    #[track_caller]
    pub(super) fn insist(&mut self, mut messages: Vec<Sent>) {
        let end = Instant::now() + HEALED;
        while !messages.is_empty() {
            assert!(Instant::now() < end, "{} not acknowledged within {HEALED:?}", messages[0].control);
            self.begin(&messages);
            messages = self.hear(messages, Duration::from_secs(5));
            if self.peer.is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Whether a message's row, the last of its steps to be seen, is there.
    pub(super) fn has_row(&self, control: &str) -> bool {
        let Ok(connection) = self.database() else { return false };
        let query = "SELECT COUNT(*) FROM rows WHERE control = ?1";
        connection.query_row(query, [control], |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0)
    }

    fn database(&self) -> rusqlite::Result<rusqlite::Connection> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        rusqlite::Connection::open_with_flags(self.path_of_rows(), flags)
    }

    fn path_of_rows(&self) -> PathBuf {
        self.site.path("data/rows.sqlite")
    }

    /// Fails unless every acknowledged message is at each place once, as it was sent and in its patient's order, nothing
    /// else is there, nothing has failed, and nothing waits.
    #[track_caller]
    pub(super) fn balance(&mut self) {
        within(HEALED, "nothing waits any more", || self.site.is_drained().then_some(()));
        Checker::of(&self.ledger)
            .messages("ward/archive", &self.site.path("archive/ward"))
            .documents("ward/attachment", &self.site.path("attachment"))
            .documents("ward/near", &self.site.path("near"))
            .sqlite("ward/rows", &self.path_of_rows(), "rows", "id,control,patient")
            .listed(&self.site)
            .balances();
        // Stricter than the checker, which cannot tell messages apart that were under way together.
        let connection = self.database().unwrap();
        let mut query = connection.prepare("SELECT control, patient FROM rows ORDER BY id").unwrap();
        let rows: Vec<(String, String)> =
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        let mut rows_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        rows.iter().for_each(|(control, patient)| rows_of.entry(patient).or_default().push(control));
        let mut sent_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        self.sent.iter().for_each(|sent| sent_of.entry(&sent.patient).or_default().push(&sent.control));
        for (patient, sent) in &sent_of {
            assert_same(&format!("rows of {patient}"), &rows_of.remove(patient).unwrap_or_default(), sent);
        }
        assert_eq!(rows_of, BTreeMap::new(), "rows of patients that nobody sent");
    }

    fn book(&self, sent: &Sent, answer: &Acknowledgment) {
        let message = Message {
            control: sent.control.clone(),
            patients: vec![sent.patient.clone()],
            body: sent.body.clone(),
            document: Some(sent.pdf.clone()),
            places: None,
        };
        // As if each were sent when the one before it had been acknowledged: the order that is to be kept.
        let mut sending = self.ledger.open("ward", 0, message);
        sending.sent(self.ledger.connection(), 0);
        sending.answered(answer);
    }
}

#[track_caller]
fn assert_same(what: &str, found: &[&str], sent: &[&str]) {
    let first = (0..found.len().max(sent.len())).find(|&n| found.get(n) != sent.get(n));
    assert!(
        first.is_none(),
        "{what}: {} of {}, the first that differs is number {first:?}: {:?} for {:?}",
        found.len(),
        sent.len(),
        &found[first.unwrap_or(0).min(found.len())..].iter().take(3).collect::<Vec<_>>(),
        &sent[first.unwrap_or(0).min(sent.len())..].iter().take(3).collect::<Vec<_>>(),
    );
}
