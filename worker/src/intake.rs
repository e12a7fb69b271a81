//! From a frame to what is journaled and what is answered: admission, duplicates, the message's id and order keys. It
//! owns what one channel remembers of its messages; sockets and the journal are elsewhere.

use crate::admission::{Admission, admit};
use crate::clock;
use crate::committer::{IntakeKind, NewMessage};
use crate::counters::Counters;
use crate::duplicates::{Duplicates, Seen, TagKey};
use crate::failed::FailedFolder;
use crate::order_key::OrderKeys;
use config::{Duplicates as Mode, WorkerSettings};
use hl7::ack::{self, Refusal};
use hl7::header::Header;
use hl7::message::Message;
use jiff::tz::TimeZone;
use journal::{Ids, MessageId};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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

/// What one channel remembers of its messages.
pub struct Intake {
    settings: Arc<WorkerSettings>,
    counters: Arc<Counters>,
    failed: Arc<FailedFolder>,
    duplicates: Duplicates,
    /// Messages given up by hand: sent again they are new.
    discarded: HashSet<MessageId>,
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
        failed: Arc<FailedFolder>,
        recent: Vec<journal::Recent>,
        tag_key: TagKey,
        random: u64,
    ) -> Intake {
        let mut duplicates = Duplicates::default();
        let mut discarded = HashSet::new();
        let mut ids = Ids::new();
        for message in recent {
            duplicates.remember(&message.tag, message.id, message.time_us);
            ids.after(message.id);
            if message.state == journal::State::Discarded {
                discarded.insert(message.id);
            }
        }
        Intake {
            order_keys: OrderKeys::of(&settings.channel),
            settings,
            counters,
            failed,
            duplicates,
            discarded,
            tag_key,
            ids,
            random,
            zone: TimeZone::system(),
            second: Second::default(),
        }
    }

    /// Takes the body of a complete frame.
    pub fn take(&mut self, body: Vec<u8>, peer: &Arc<str>, address: IpAddr) -> Taken {
        let now_us = clock::system_us();
        self.turn_second(now_us);
        let settings = Arc::clone(&self.settings);
        match admit(&body, &settings.channel) {
            Admission::InboundAcknowledgment => {
                Taken::Silence { quarantine: (self.next_id(now_us), "inbound_acknowledgment", body) }
            }
            Admission::Refuse { header, refusal } => {
                let id = self.next_id(now_us);
                let answer = self.refusal(header.as_ref(), refusal, id);
                let unreadable = header.is_none();
                Taken::Answer { answer, quarantine: unreadable.then_some((id, "not_hl7", body)) }
            }
            Admission::Accept { header, workflow } => {
                let tag = self.tag_key.tag([header.field(3), header.field(4)], header.control_id(), &body);
                let seen = match settings.channel.duplicates {
                    Mode::Suppress => self.duplicates.look(&tag, now_us),
                    Mode::Process => Seen::New,
                };
                let (id, known) = match seen {
                    Seen::Same(id) => (id, true),
                    Seen::New | Seen::OtherContent => (self.next_id(now_us), false),
                };
                if seen == Seen::OtherContent {
                    let control_id = String::from_utf8_lossy(header.control_id()).into_owned();
                    log::warn!(
                        "control id {control_id:?} came again with other content; processed as id={id}"
                    );
                }
                let answer = ack::accept(&header, &id.to_string(), &self.second.hl7_time);
                if known {
                    self.counters.duplicates.fetch_add(1, Relaxed);
                    if !self.failed.contains(id) && !self.discarded.remove(&id) {
                        return Taken::Store { id, kind: IntakeKind::Known, answer };
                    }
                }
                let decoded = hl7::charset::decode(&body, settings.channel.encoding);
                let message = Message::parse(&decoded.text).ok();
                let keys = self.order_keys.keys(message.as_ref(), &header, address, workflow, &self.tag_key);
                drop(decoded);
                if !known {
                    self.duplicates.remember(&tag, id, now_us);
                }
                let new = Box::new(NewMessage {
                    id,
                    received_us: now_us,
                    utc_offset_s: self.second.utc_offset_s,
                    peer: Arc::clone(peer),
                    keys,
                    tag,
                    workflow,
                    body,
                });
                let kind = if known { IntakeKind::Again(new) } else { IntakeKind::New(new) };
                Taken::Store { id, kind, answer }
            }
        }
    }

    /// The answer to a message over the limit, from what is known of its header.
    pub fn too_large(&mut self, head: &[u8]) -> Vec<u8> {
        let now_us = clock::system_us();
        self.turn_second(now_us);
        let id = self.next_id(now_us);
        self.refusal(Header::parse(head).ok().as_ref(), &Refusal::TOO_LARGE, id)
    }

    /// An id for bytes that are kept aside.
    pub fn quarantine_id(&mut self) -> MessageId {
        self.next_id(clock::system_us())
    }

    /// Messages that could not be stored were never here.
    pub fn forget(&mut self, ids: &HashSet<MessageId>) {
        self.duplicates.forget(ids);
    }

    /// Messages were given up by hand.
    pub fn discarded(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        self.discarded.extend(ids);
    }

    /// Forgets what is older than a day.
    pub fn expire(&mut self) {
        self.duplicates.expire(clock::system_us());
        if self.discarded.len() > crate::duplicates::REMEMBERED_MAX {
            self.discarded.clear();
        }
    }

    fn refusal(&self, header: Option<&Header<'_>>, refusal: &Refusal, id: MessageId) -> Vec<u8> {
        self.counters.refused(refusal.error);
        ack::refuse(header, refusal, &id.to_string(), &self.second.hl7_time)
    }

    fn next_id(&mut self, now_us: i64) -> MessageId {
        self.random = self.tag_key.order_key(0, &[&self.random.to_le_bytes()]);
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
