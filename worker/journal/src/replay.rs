//! What the records add up to: which messages wait, and how far each has come.
//!
//! Applying a record twice, or a run of records once more from its start, changes nothing: recovery copies
//! tails and compaction copies messages, and a crash may leave both the copy and the original behind.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::error::Damage;
use crate::id::MessageId;
use crate::meta::{Meta, ReceivedMeta};
use crate::recall::{RECENT_MAX, Recent, State};
use crate::record::Location;
use crate::scan::Found;

/// A message that waits, as replay hands it out: in the order in which messages were acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The message.
    pub id: MessageId,
    /// Where its bytes are.
    pub location: Location,
    /// Its place among the others; grows from message to message.
    pub order: u64,
    /// When it came, in microseconds since 1970.
    pub time_us: i64,
    /// The keys its order is kept by.
    pub keys: Vec<u64>,
    /// The caller's.
    pub flags: u8,
    /// Steps that need not be done again.
    pub steps_done: Vec<String>,
    /// Steps that were put off, with their last putting off.
    pub again: Vec<AgainState>,
    /// Where the values are that a step must repeat.
    pub frozen: Vec<(String, Location)>,
    /// It was being worked on when the journal ended: begun, and not put off since.
    pub started: bool,
    /// How often a worker died over it.
    pub strikes: u8,
    /// It was reopened by hand and stands outside the order.
    pub retried: bool,
}

/// A step that was put off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgainState {
    /// The step.
    pub step: String,
    /// How many tries there were.
    pub attempt: u32,
    /// When the next is due, in microseconds since 1970.
    pub until_us: i64,
    /// When the first was, in microseconds since 1970.
    pub since_us: i64,
    /// Why.
    pub reason: String,
}

/// What opening found.
#[derive(Debug, Clone, Default)]
pub struct ReplaySummary {
    /// Messages to recognise duplicates by, oldest first.
    pub recent: Vec<Recent>,
    /// What was found wrong. Everything that could be read was kept.
    pub damage: Vec<Damage>,
    /// How many bytes of torn tails were cut off: records that no one was told were safe.
    pub cut_bytes: u64,
    /// How many messages wait.
    pub messages_open: u64,
    /// How many segments there are.
    pub segments: u32,
    /// How many records were applied.
    pub records: u64,
    /// An I/O error ended the journal before; its tail was copied to a new segment.
    pub after_io_error: bool,
}

/// Hashes message ids, which are random enough as they are.
#[derive(Debug, Default, Clone)]
pub(crate) struct IdHash(u64);
/// For maps by message id.
pub(crate) type IdHasher = BuildHasherDefault<IdHash>;

impl Hasher for IdHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u128(u128::from(byte));
        }
    }

    fn write_u128(&mut self, value: u128) {
        let folded = value as u64 ^ (value >> 64) as u64 ^ self.0;
        self.0 = folded.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

/// What is kept of a message while replaying. Most messages have one key and no more than that.
#[derive(Debug, Clone)]
struct Message {
    id: MessageId,
    location: Location,
    /// Of the record there.
    sequence: u64,
    order: u64,
    time_us: i64,
    keys: Keys,
    flags: u8,
    started: bool,
    strikes: u8,
    retried: bool,
    more: Option<Box<More>>,
}

#[derive(Debug, Clone)]
enum Keys {
    One(u64),
    Many(Box<[u64]>),
}

#[derive(Debug, Clone, Default)]
struct More {
    steps_done: Vec<String>,
    again: Vec<AgainState>,
    frozen: Vec<(String, Location)>,
}

/// The journal's content so far.
#[derive(Debug, Default)]
pub(crate) struct Content {
    open: Open,
    /// Messages that ended otherwise than done.
    ended: HashMap<MessageId, State, IdHasher>,
    recent: VecDeque<Recent>,
    pub(crate) records: u64,
}

/// The messages that wait. They lie in the order in which they came, since a map of a million of them is mostly waited for
/// memory in: only their places are looked up.
#[derive(Debug, Default)]
struct Open {
    places: HashMap<MessageId, u32, IdHasher>,
    messages: Vec<Option<Message>>,
    free: Vec<u32>,
}

impl Open {
    fn get_mut(&mut self, id: MessageId) -> Option<&mut Message> {
        self.messages[*self.places.get(&id)? as usize].as_mut()
    }

    fn contains(&self, id: MessageId) -> bool {
        self.places.contains_key(&id)
    }

    fn insert(&mut self, message: Message) {
        let id = message.id;
        let place = match self.free.pop() {
            Some(place) => {
                self.messages[place as usize] = Some(message);
                place
            }
            None => {
                self.messages.push(Some(message));
                (self.messages.len() - 1) as u32
            }
        };
        self.places.insert(id, place);
    }

    /// Whether it was there.
    fn remove(&mut self, id: MessageId) -> bool {
        let Some(place) = self.places.remove(&id) else { return false };
        self.messages[place as usize] = None;
        self.free.push(place);
        true
    }

    fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().flatten()
    }
}

impl Message {
    fn of(meta: &ReceivedMeta<'_>, location: Location, sequence: u64) -> Message {
        let mut keys = meta.keys();
        let keys = match (keys.next(), keys.len()) {
            (Some(key), 0) => Keys::One(key),
            _ => Keys::Many(meta.keys().collect()),
        };
        Message {
            id: meta.id,
            location,
            sequence,
            order: if meta.order == 0 { location.order() } else { meta.order },
            time_us: meta.time_us,
            keys,
            flags: meta.flags,
            started: false,
            strikes: 0,
            retried: false,
            more: None,
        }
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    fn into_replayed(self) -> Replayed {
        let more = self.more.map(|more| *more).unwrap_or_default();
        Replayed {
            id: self.id,
            location: self.location,
            order: self.order,
            time_us: self.time_us,
            keys: match self.keys {
                Keys::One(key) => vec![key],
                Keys::Many(keys) => keys.into_vec(),
            },
            flags: self.flags,
            steps_done: more.steps_done,
            again: more.again,
            frozen: more.frozen,
            started: self.started,
            strikes: self.strikes,
            retried: self.retried,
        }
    }
}

impl Content {
    /// Begins with what side files remember.
    pub(crate) fn remember(&mut self, older: Vec<Recent>) {
        self.recent.extend(older);
    }

    /// Takes a record in; one about a message that is not known (any more) says nothing.
    pub(crate) fn apply(&mut self, found: Found<'_>) {
        self.records += 1;
        // The checksums fit, so it is a record of a kind this version does not write: none exists.
        let Some(meta) = Meta::decode(found.head.kind, found.meta) else { return };
        match meta {
            Meta::Received(meta) => self.received(&meta, found.location, found.head.sequence),
            Meta::Started(ids) => {
                for id in ids.iter() {
                    self.with(id, |message| message.started = true);
                }
            }
            Meta::Frozen { id, step } => self.with(id, |message| {
                let frozen = &mut message.more().frozen;
                match frozen.iter_mut().find(|(name, _)| name == step) {
                    Some((_, location)) => *location = found.location,
                    None => frozen.push((step.to_owned(), found.location)),
                }
            }),
            Meta::StepDone { id, step } => self.with(id, |message| {
                let more = message.more();
                more.again.retain(|again| again.step != step);
                if !more.steps_done.iter().any(|done| done == step) {
                    more.steps_done.push(step.to_owned());
                }
            }),
            Meta::Again { id, step, attempt, until_us, since_us, reason } => self.with(id, |message| {
                message.started = false;
                let again = &mut message.more().again;
                again.retain(|again| again.step != step);
                let (step, reason) = (step.to_owned(), reason.to_owned());
                again.push(AgainState { step, attempt, until_us, since_us, reason });
            }),
            Meta::Done(ids) => {
                for id in ids.iter() {
                    if !self.open.remove(id) && !self.ended.is_empty() {
                        self.ended.remove(&id);
                    }
                }
            }
            Meta::Failed { id, .. } => self.end(id, State::Failed),
            Meta::Discarded { id } => self.end(id, State::Discarded),
            Meta::Returned { id } => self.end(id, State::Returned),
            Meta::Retried { id } => self.with(id, |message| message.retried = true),
            Meta::Strike { id, count } => self.with(id, |message| {
                message.started = false;
                message.strikes = count;
            }),
        }
    }

    fn with(&mut self, id: MessageId, change: impl FnOnce(&mut Message)) {
        if let Some(message) = self.open.get_mut(id) {
            change(message);
        }
    }

    fn received(&mut self, meta: &ReceivedMeta<'_>, location: Location, sequence: u64) {
        if self.recent.len() >= 2 * RECENT_MAX {
            self.recent.drain(..RECENT_MAX);
        }
        let (tag, id, time_us) = (meta.tag, meta.id, meta.time_us);
        self.recent.push_back(Recent { tag, id, time_us, state: State::Done });
        let fresh = Message::of(meta, location, sequence);
        if !self.ended.is_empty() {
            // Opened anew, it begins anew: the segments with what it had come to may have been retired.
            self.ended.remove(&id);
        }
        match self.open.get_mut(id) {
            // Copied with a tail, all that follows it was copied as well: the copy counts. Moved by
            // compaction, what it had come to may not have followed it: the original counts as long as
            // it is there, or its segment would be retired with the only record of that.
            Some(message) if sequence <= message.sequence => {
                message.location = location;
                message.sequence = sequence;
                message.order = fresh.order;
            }
            Some(_) => {}
            None => self.open.insert(fresh),
        }
    }

    fn end(&mut self, id: MessageId, state: State) {
        if self.open.remove(id) || self.ended.contains_key(&id) {
            self.ended.insert(id, state);
        }
    }

    /// How many messages wait.
    pub(crate) fn messages_open(&self) -> u64 {
        self.open.places.len() as u64
    }

    /// Where the messages that wait are, in no order.
    pub(crate) fn locations(&self) -> impl Iterator<Item = (MessageId, Location)> + use<'_> {
        self.open.iter().map(|message| (message.id, message.location))
    }

    /// Ends that a later message's segment may have to tell duplicate memory of.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (MessageId, State)> + use<'_> {
        self.ended.iter().map(|(&id, &state)| (id, state))
    }

    /// The messages to recognise duplicates by, each with its present state.
    pub(crate) fn recent(&mut self) -> Vec<Recent> {
        let mut recent = std::mem::take(&mut self.recent);
        crate::recall::bound(&mut recent);
        for entry in &mut recent {
            if self.open.contains(entry.id) {
                entry.state = State::Open;
            } else if let Some(state) = self.ended.get(&entry.id) {
                entry.state = *state;
            } else if entry.state == State::Open {
                entry.state = State::Done;
            }
        }
        recent.into()
    }

    /// Hands out every message that waits, in order.
    pub(crate) fn hand_out(self, sink: &mut dyn FnMut(Replayed)) {
        let Open { places, mut messages, .. } = self.open;
        drop(places);
        let places = messages.iter().enumerate();
        let mut order: Vec<(u64, MessageId, usize)> =
            places.filter_map(|(at, message)| message.as_ref().map(|m| (m.order, m.id, at))).collect();
        order.sort_unstable();
        for (_, _, at) in order {
            if let Some(message) = messages[at].take() {
                sink(message.into_replayed());
            }
        }
    }
}
