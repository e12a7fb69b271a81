//! The ledger: what senders were told, a line of JSON a message, for the checker. See `checker` for the keys.

use crate::support::mllp::Acknowledgment;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// A message to send.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// MSH-10: of one message of its channel only, without `_`.
    pub(crate) control: String,
    /// Whom it is about; with a merge both.
    pub(crate) patients: Vec<String>,
    /// As it goes over the wire.
    pub(crate) body: Vec<u8>,
    /// The document in it.
    pub(crate) document: Option<Vec<u8>>,
    /// Where it must come to; `None`: every place of its channel.
    pub(crate) places: Option<Vec<&'static str>>,
}

/// The book of one test.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: Mutex<BufWriter<File>>,
    begun: Instant,
    connections: AtomicU64,
    acknowledged: AtomicUsize,
}

/// What a sender knows of a message so far.
#[derive(Debug)]
pub(crate) struct Sending<'l> {
    ledger: &'l Ledger,
    channel: &'static str,
    sender: usize,
    message: Message,
    first_us: Option<u64>,
    attempts: u64,
    /// Of the last attempt.
    connection: u64,
    position: u64,
}

impl Ledger {
    /// An empty one in a file.
    pub(crate) fn new(path: &Path) -> Ledger {
        Ledger {
            path: path.to_owned(),
            file: Mutex::new(BufWriter::new(File::create(path).unwrap())),
            begun: Instant::now(),
            connections: AtomicU64::new(0),
            acknowledged: AtomicUsize::new(0),
        }
    }

    /// A number for a new connection.
    pub(crate) fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// Messages acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Relaxed)
    }

    /// A message that a sender is about to send.
    pub(crate) fn open(&self, channel: &'static str, sender: usize, message: Message) -> Sending<'_> {
        Sending {
            ledger: self,
            channel,
            sender,
            message,
            first_us: None,
            attempts: 0,
            connection: 0,
            position: 0,
        }
    }

    /// The file, with all lines so far in it.
    pub(crate) fn written(&self) -> &Path {
        self.file.lock().unwrap().flush().unwrap();
        &self.path
    }

    fn now_us(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    fn write(&self, line: &Value) {
        writeln!(self.file.lock().unwrap(), "{line}").unwrap();
    }
}

impl Sending<'_> {
    /// What to send.
    pub(crate) fn message(&self) -> &Message {
        &self.message
    }

    /// It goes over the wire now, as the message at `position` of a connection.
    pub(crate) fn sent(&mut self, connection: u64, position: u64) {
        self.first_us.get_or_insert_with(|| self.ledger.now_us());
        self.attempts += 1;
        (self.connection, self.position) = (connection, position);
    }

    /// Its sender has heard of it: it is over, whatever was said.
    pub(crate) fn answered(self, answer: &Acknowledgment) {
        let control = self.message.control.as_bytes();
        assert_eq!(answer.control_id(), control, "the answer to another message");
        let code = answer.code();
        if code == "AA" {
            self.ledger.acknowledged.fetch_add(1, Relaxed);
        }
        let at = self.ledger.now_us();
        self.book(json!(at), json!(code), json!(answer.message_id()));
    }

    /// Its sender gives up without an answer.
    pub(crate) fn never(self) {
        self.book(Value::Null, Value::Null, Value::Null);
    }

    fn book(self, at: Value, code: Value, id: Value) {
        let Some(sent_us) = self.first_us else { return };
        let message = &self.message;
        let (bytes, sha256) = (message.body.len(), sha256(&message.body));
        self.ledger.write(&json!({
            "channel": self.channel, "control": message.control, "patients": message.patients,
            "bytes": bytes, "sha256": sha256,
            "document_bytes": message.document.as_ref().map(Vec::len),
            "document_sha256": message.document.as_ref().map(|document| self::sha256(document)),
            "sender": self.sender, "connection": self.connection, "position": self.position,
            "attempts": self.attempts, "sent_us": sent_us, "acknowledged_us": at, "code": code, "id": id,
            "places": message.places,
        }));
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
