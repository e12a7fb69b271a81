//! From a frame to what is journaled and what is answered: admission, duplicates, the message's id and order keys. It
//! owns what one channel remembers of its messages; sockets and the journal are elsewhere.

use crate::admission::{Admission, admit};
use crate::batch_answers::Gathering;
use crate::clock;
use crate::committer::{IntakeKind, NewMessage};
use crate::counters::Counters;
use crate::duplicates::{Duplicates, Seen, TagKey};
use crate::failed::FailedFolder;
use crate::given_up::GivenUp;
use crate::order_key::OrderKeys;
use crate::returned::{ReturnedFolder, ReturnedMessage};
use config::{AckMode, Duplicates as Mode, OnUndecodable, WorkerSettings};
use hl7::ack::{self, Refusal};
use hl7::charset::{self, Readable};
use hl7::header::Header;
use hl7::segments;
use jiff::tz::TimeZone;
use journal::{Ids, MessageId, Tag};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Kept of a message in UTF-16 or UTF-32 while its outcome is waited for; its MSH is in it.
const WIDE_START_BYTES_MAX: usize = 4096;

/// What a frame comes to.
#[derive(Debug)]
pub enum Taken {
    /// To be stored; answered when that is flushed.
    Store {
        /// Its id.
        id: MessageId,
        /// What is stored.
        kind: IntakeKind,
        /// The acknowledgment.
        answer: Vec<u8>,
        /// `ack: processed`: the answer waits for the message to end; a refusal is built from this MSH segment.
        outcome: Option<Vec<u8>>,
    },
    /// Answered at once.
    Answer {
        /// The refusal.
        answer: Vec<u8>,
        /// Bytes that are kept aside, where the header cannot be read.
        quarantine: Option<(MessageId, &'static str, Vec<u8>)>,
    },
    /// Never answered.
    Silence {
        /// Kept aside.
        quarantine: (MessageId, &'static str, Vec<u8>),
    },
}

/// How a message stands.
enum Standing {
    /// Nothing like it came before.
    New(MessageId),
    /// It is stored, and its sender need not wait for more.
    Ended(MessageId),
    /// `ack: processed`: it is being processed.
    InProgress(MessageId),
    /// It failed, or nobody has it any more.
    Again(MessageId),
    /// `ack: processed`: it failed for good here, and is kept for a person.
    Failed(MessageId),
    /// `ack: processed`: its sender kept it.
    Returned(MessageId, ReturnedMessage),
}

/// What is kept of a message to build a refusal from: its MSH segment, or its first bytes where a segment's end cannot
/// be told from bytes.
fn start_of(body: &[u8], readable: &Readable<'_>, header: &Header<'_>) -> Vec<u8> {
    if std::ptr::eq(readable.bytes().as_ptr(), body.as_ptr()) {
        segments::split(body, header.delimiters().field).next().unwrap_or_default().to_vec()
    } else {
        body[..body.len().min(WIDE_START_BYTES_MAX)].to_vec()
    }
}

/// Messages that are over and not done. Sent again, they do not pass for done.
pub struct NotDone {
    /// Failed, and listed.
    pub failed: Arc<FailedFolder>,
    /// Their senders'.
    pub returned: Arc<ReturnedFolder>,
    /// Nobody's.
    pub given_up: Arc<GivenUp>,
}

/// What one channel remembers of its messages.
pub struct Intake {
    settings: Arc<WorkerSettings>,
    counters: Arc<Counters>,
    not_done: NotDone,
    duplicates: Duplicates,
    tag_key: TagKey,
    order_keys: OrderKeys,
    ids: Ids,
    random: u64,
    zone: TimeZone,
    second: Second,
}

/// What all messages of one second share.
#[derive(Default)]
struct Second {
    unix_s: i64,
    utc_offset_s: i32,
    hl7_time: String,
}

impl Intake {
    /// Begins with what the journal remembers; `random` seeds the ids.
    pub fn new(
        settings: Arc<WorkerSettings>,
        counters: Arc<Counters>,
        not_done: NotDone,
        recent: Vec<journal::Recent>,
        tag_key: TagKey,
        random: u64,
    ) -> Intake {
        let mut duplicates = Duplicates::default();
        let mut ids = Ids::new();
        for message in recent {
            duplicates.remember(&message.tag, message.id, message.time_us);
            ids.after(message.id);
        }
        Intake {
            order_keys: OrderKeys::of(&settings.channel),
            settings,
            counters,
            not_done,
            duplicates,
            tag_key,
            ids,
            random,
            zone: clock::local_zone(),
            second: Second::default(),
        }
    }

    /// Takes a message. `in_batch`: its answer becomes part of a batch's, see [`Intake::batch_answer`]. `is_awaited` says
    /// whether a message is being processed and its end may be waited for.
    pub fn take(
        &mut self,
        body: Vec<u8>,
        in_batch: bool,
        peer: &Arc<str>,
        address: IpAddr,
        is_awaited: impl Fn(MessageId) -> bool,
    ) -> Taken {
        let now_us = clock::system_us();
        self.turn_second(now_us);
        let settings = Arc::clone(&self.settings);
        let channel = &settings.channel;
        let Ok(readable) = charset::transcode_header(&body, channel.encoding) else {
            let id = self.next_id(now_us);
            let answer = self.refusal(None, &Refusal::NOT_HL7, id);
            return Taken::Answer { answer, quarantine: Some((id, "not_hl7", body)) };
        };
        let encode = |answer| if in_batch { answer } else { readable.answer(answer) };
        match admit(&readable, channel) {
            Admission::InboundAcknowledgment => {
                Taken::Silence { quarantine: (self.next_id(now_us), "inbound_acknowledgment", body) }
            }
            Admission::Refuse { header, refusal } => {
                let id = self.next_id(now_us);
                let answer = encode(self.refusal(header.as_ref(), refusal, id));
                let unreadable = header.is_none();
                Taken::Answer { answer, quarantine: unreadable.then_some((id, "not_hl7", body)) }
            }
            Admission::Accept { header, workflow } => {
                let decoded = charset::decode_behind(&header, &body, channel.encoding);
                if decoded.undecodable > 0 && channel.on_undecodable == OnUndecodable::Refuse {
                    let id = self.next_id(now_us);
                    let answer = encode(self.refusal(Some(&header), &Refusal::UNDECODABLE, id));
                    return Taken::Answer { answer, quarantine: None };
                }
                let keys = self.order_keys.keys(&decoded.text, &header, address, workflow, &self.tag_key);
                let tag = self.tag_key.tag([header.field(3), header.field(4)], header.control_id(), &body);
                let new = |id, received_us, utc_offset_s| NewMessage {
                    id,
                    received_us,
                    utc_offset_s,
                    peer: Arc::clone(peer),
                    keys,
                    tag,
                    workflow,
                    body: Vec::new(),
                };
                let processed = channel.ack == AckMode::Processed;
                let outcome = || processed.then(|| start_of(&body, &readable, &header));
                let utc_offset_s = self.second.utc_offset_s;
                let (id, mut kind, outcome) =
                    match self.standing(&tag, header.control_id(), now_us, is_awaited) {
                        Standing::New(id) => {
                            self.duplicates.remember(&tag, id, now_us);
                            (id, IntakeKind::New(Box::new(new(id, now_us, utc_offset_s))), outcome())
                        }
                        Standing::Ended(id) => (id, IntakeKind::Known, None),
                        Standing::InProgress(id) => (id, IntakeKind::Known, outcome()),
                        Standing::Again(id) => {
                            (id, IntakeKind::Again(Box::new(new(id, now_us, utc_offset_s))), outcome())
                        }
                        Standing::Returned(id, memory) => {
                            let new = Box::new(new(id, memory.received_us, memory.utc_offset_s));
                            (id, IntakeKind::Resumed(new, memory.steps_done), outcome())
                        }
                        Standing::Failed(id) => {
                            let answer = encode(self.refusal(Some(&header), &Refusal::PROCESSING_FAILED, id));
                            return Taken::Answer { answer, quarantine: None };
                        }
                    };
                let answer = encode(ack::accept(&header, &id.to_string(), &self.second.hl7_time));
                drop((decoded, readable));
                if let IntakeKind::New(new) | IntakeKind::Again(new) | IntakeKind::Resumed(new, _) = &mut kind
                {
                    new.body = body;
                }
                Taken::Store { id, kind, answer, outcome }
            }
        }
    }

    /// How a message stands that may have come before.
    fn standing(
        &mut self,
        tag: &Tag,
        control_id: &[u8],
        now_us: i64,
        is_awaited: impl Fn(MessageId) -> bool,
    ) -> Standing {
        let seen = match self.settings.channel.duplicates {
            Mode::Suppress => self.duplicates.look(tag, now_us),
            Mode::Process => Seen::New,
        };
        let id = match seen {
            Seen::Same(id) => id,
            Seen::New => return Standing::New(self.next_id(now_us)),
            Seen::OtherContent => {
                let id = self.next_id(now_us);
                let control_id = String::from_utf8_lossy(control_id);
                log::warn!("control id {control_id:?} came again with other content; processed as id={id}");
                return Standing::New(id);
            }
        };
        self.counters.duplicates.fetch_add(1, Relaxed);
        if let Some(memory) = self.not_done.returned.get(id).filter(|_| !is_awaited(id)) {
            return Standing::Returned(id, memory);
        }
        let NotDone { failed, given_up, .. } = &self.not_done;
        match self.settings.channel.ack {
            // Until it is on record that one came again, others that do come as again too: the committer knows which was
            // first, and whether it was stored.
            AckMode::Received if failed.contains(id) || given_up.contains(id) => Standing::Again(id),
            AckMode::Received => Standing::Ended(id),
            // It took its worker down: that is not tried again at its sender's wish.
            AckMode::Processed if failed.contains(id) => Standing::Failed(id),
            AckMode::Processed if is_awaited(id) => Standing::InProgress(id),
            AckMode::Processed if given_up.contains(id) => Standing::Again(id),
            AckMode::Processed => Standing::Ended(id),
        }
    }

    /// The refusal of a message that has ended, from the start of it that was kept.
    pub fn refuse_ended(
        &mut self,
        start: &[u8],
        in_batch: bool,
        refusal: &Refusal,
        id: MessageId,
    ) -> Vec<u8> {
        self.turn_second(clock::system_us());
        match charset::transcode_start(start, self.settings.channel.encoding) {
            Ok(readable) => {
                let answer = self.refusal(readable.header().ok().as_ref(), refusal, id);
                if in_batch { answer } else { readable.answer(answer) }
            }
            Err(_) => self.refusal(None, refusal, id),
        }
    }

    /// The frame that answers a batch.
    pub fn batch_answer<'b>(&mut self, batch: &'b Gathering) -> Vec<u8> {
        let now_us = clock::system_us();
        self.turn_second(now_us);
        let id = self.next_id(now_us).to_string();
        let encoding = self.settings.channel.encoding;
        let read = |header: &'b Option<Vec<u8>>| charset::transcode_start(header.as_deref()?, encoding).ok();
        let (file, header) = (read(&batch.file_header), read(&batch.batch_header));
        let (file_bytes, header_bytes) =
            (file.as_ref().map(Readable::bytes), header.as_ref().map(Readable::bytes));
        let time = &self.second.hl7_time;
        let body = hl7::batch::answer(file_bytes, header_bytes, &batch.answers, &id, time);
        match charset::transcode_start(&batch.start, encoding) {
            Ok(frame) => frame.answer(body),
            Err(_) => body,
        }
    }

    /// The answer to a message over the limit, from what is known of its header.
    pub fn too_large(&mut self, head: &[u8]) -> Vec<u8> {
        let now_us = clock::system_us();
        self.turn_second(now_us);
        let id = self.next_id(now_us);
        self.refuse_ended(head, false, &Refusal::TOO_LARGE, id)
    }

    /// An id for bytes that are kept aside.
    pub fn quarantine_id(&mut self) -> MessageId {
        self.next_id(clock::system_us())
    }

    /// Messages that could not be stored were never here.
    pub fn forget(&mut self, ids: &HashSet<MessageId>) {
        self.duplicates.forget(ids);
    }

    /// Forgets what is older than a day.
    pub fn expire(&mut self) {
        self.duplicates.expire(clock::system_us());
    }

    fn refusal(&self, header: Option<&Header<'_>>, refusal: &Refusal, id: MessageId) -> Vec<u8> {
        self.counters.refused(refusal.error);
        ack::refuse(header, refusal, &id.to_string(), &self.second.hl7_time)
    }

    fn next_id(&mut self, now_us: i64) -> MessageId {
        self.random = self.tag_key.order_key(0, [self.random.to_le_bytes()]);
        self.ids.next((now_us / 1000).max(0) as u64, self.random)
    }

    fn turn_second(&mut self, now_us: i64) {
        let unix_s = now_us.div_euclid(1_000_000);
        if self.second.unix_s != unix_s || self.second.hl7_time.is_empty() {
            let utc_offset_s = clock::utc_offset_s(&self.zone, now_us);
            let hl7_time = clock::hl7_time(&clock::local(now_us, utc_offset_s));
            self.second = Second { unix_s, utc_offset_s, hl7_time };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use std::net::Ipv4Addr;

    #[test]
    fn a_message_given_back_begins_anew_though_nothing_is_remembered_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Arc::new(crate::testing::settings("ack: processed\nmapping: {}\n"));
        let counters = Arc::new(Counters::new(&Plan::of(&settings)));
        let failed = Arc::new(FailedFolder::open(folder.path(), |_| true).unwrap());
        let returned = Arc::new(ReturnedFolder::open(folder.path(), |_| true).unwrap());
        let given_up = Arc::new(GivenUp::default());
        let not_done = NotDone { failed, returned, given_up: Arc::clone(&given_up) };
        let mut intake = Intake::new(settings, counters, not_done, Vec::new(), TagKey::new([7; 16]), 1);
        let take = |intake: &mut Intake| {
            let body = b"MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\rPID|1||7\r".to_vec();
            match intake.take(body, false, &"peer".into(), Ipv4Addr::LOCALHOST.into(), |_| false) {
                Taken::Store { id, kind, .. } => (id, kind),
                other => panic!("{other:?}"),
            }
        };
        let (id, kind) = take(&mut intake);
        assert!(matches!(kind, IntakeKind::New(_)));
        assert!(matches!(take(&mut intake), (same, IntakeKind::Known) if same == id), "it counts as done");
        given_up.add([id]);
        for _ in 0..2 {
            let taken = take(&mut intake);
            assert!(matches!(taken, (same, IntakeKind::Again(_)) if same == id), "until it is on record");
        }
        given_up.remove(&[id]);
        assert!(matches!(take(&mut intake), (same, IntakeKind::Known) if same == id));
    }
}
