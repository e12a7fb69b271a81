//! Which messages came before: the same sender (MSH-3, MSH-4), control id (MSH-10) and bytes within the last 24 hours or
//! 100,000 messages. Pure; what outlives a restart comes back from the journal.

use highway::{HighwayHash, HighwayHasher, Key};
use journal::{MessageId, Tag};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Messages remembered.
pub const REMEMBERED_MAX: usize = 100_000;
/// How long a message is remembered, in microseconds.
pub const REMEMBERED_US: i64 = 24 * 3600 * 1_000_000;
/// The kind of order key that the key for whole messages is made of; no message has one of it.
const CONTENT_KEY: u8 = 255;

/// The channel's own key for the hashes of a message, so that nobody outside can make two messages look the same.
#[derive(Clone, Copy)]
pub struct TagKey {
    /// For what is short.
    short: [u8; 16],
    /// For whole messages: HighwayHash, which takes a fifth of SipHash's time on a report.
    content: Key,
}

impl TagKey {
    /// From the channel's secret.
    pub fn new(secret: [u8; 16]) -> TagKey {
        let word = |n| TagKey { short: secret, content: Key::default() }.order_key(CONTENT_KEY, [[n]]);
        TagKey { short: secret, content: Key([word(0), word(1), word(2), word(3)]) }
    }

    /// The hashes of a message: of its sender and control id, and of all its bytes.
    pub fn tag(&self, sender: [&[u8]; 2], control_id: &[u8], body: &[u8]) -> Tag {
        let mut identity = SipHasher13::new_with_key(&self.short);
        for part in [sender[0], sender[1], control_id] {
            identity.write(&(part.len() as u64).to_le_bytes());
            identity.write(part);
        }
        let [low, high] = HighwayHasher::new(self.content).hash128(body);
        let content = u128::from(high) << 64 | u128::from(low);
        Tag { identity: identity.finish128().as_bytes(), content: content.to_le_bytes() }
    }

    /// An order key: a hash of what names a patient (or a sender, where no patient is named).
    pub fn order_key(&self, kind: u8, parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.short);
        hasher.write_u8(kind);
        for part in parts {
            let part = part.as_ref();
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part);
        }
        hasher.finish()
    }
}

/// What a message is, as far as was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing like it.
    New,
    /// The same bytes, accepted under that id.
    Same(MessageId),
    /// Other bytes under the same control id.
    OtherContent,
}

/// The messages remembered. All their bytes decide, which hold sender and control id; those are looked at by themselves
/// only to tell that a control id was used twice.
#[derive(Debug, Default)]
pub struct Duplicates {
    by_content: ByHash<(MessageId, i64)>,
    /// How many contents are remembered of a sender and control id.
    by_identity: ByHash<u32>,
    in_order: VecDeque<(Tag, MessageId)>,
}

/// By what is a hash under a secret key already: to hash it again would tell nobody less.
type ByHash<V> = HashMap<u128, V, BuildHasherDefault<AlreadyHashed>>;

#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are numbers of 128 bits");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn content(tag: &Tag) -> u128 {
    u128::from_le_bytes(tag.content)
}

fn identity(tag: &Tag) -> u128 {
    u128::from_le_bytes(tag.identity)
}

impl Duplicates {
    /// What is known of a message.
    pub fn look(&self, tag: &Tag, now_us: i64) -> Seen {
        match self.by_content.get(&content(tag)) {
            Some((_, time_us)) if now_us.saturating_sub(*time_us) > REMEMBERED_US => Seen::New,
            Some((id, _)) => Seen::Same(*id),
            None if self.by_identity.contains_key(&identity(tag)) => Seen::OtherContent,
            None => Seen::New,
        }
    }

    /// Remembers an accepted message; the oldest make room.
    pub fn remember(&mut self, tag: &Tag, id: MessageId, time_us: i64) {
        self.by_content.insert(content(tag), (id, time_us));
        *self.by_identity.entry(identity(tag)).or_default() += 1;
        self.in_order.push_back((*tag, id));
        while self.in_order.len() > REMEMBERED_MAX {
            self.drop_oldest();
        }
    }

    /// Forgets messages whose storing failed: they were never acknowledged.
    pub fn forget(&mut self, ids: &HashSet<MessageId>) {
        if ids.is_empty() {
            return;
        }
        for (tag, id) in std::mem::take(&mut self.in_order) {
            if ids.contains(&id) {
                self.drop(&tag, id);
            } else {
                self.in_order.push_back((tag, id));
            }
        }
    }

    /// Drops what is older than 24 hours.
    pub fn expire(&mut self, now_us: i64) {
        while let Some((tag, id)) = self.in_order.front() {
            match self.by_content.get(&content(tag)) {
                Some((seen, time_us)) if seen == id && now_us.saturating_sub(*time_us) <= REMEMBERED_US => {
                    break;
                }
                _ => self.drop_oldest(),
            }
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((tag, id)) = self.in_order.pop_front() {
            self.drop(&tag, id);
        }
    }

    fn drop(&mut self, tag: &Tag, id: MessageId) {
        if let Entry::Occupied(of_content) = self.by_content.entry(content(tag))
            && of_content.get().0 == id
        {
            of_content.remove();
        }
        if let Entry::Occupied(mut count) = self.by_identity.entry(identity(tag)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(control_id: &str, body: &str) -> Tag {
        let body = format!("{control_id}|{body}");
        TagKey::new([7; 16]).tag([b"APP", b"FAC"], control_id.as_bytes(), body.as_bytes())
    }

    #[test]
    fn only_the_same_bytes_under_the_same_control_id_are_a_duplicate() {
        let mut seen = Duplicates::default();
        let id = MessageId::new(1, 1);
        seen.remember(&tag("1", "a"), id, 0);
        assert_eq!(seen.look(&tag("1", "a"), 1), Seen::Same(id));
        assert_eq!(seen.look(&tag("1", "b"), 1), Seen::OtherContent);
        assert_eq!(seen.look(&tag("2", "a"), 1), Seen::New);
    }

    #[test]
    fn a_day_later_it_is_a_new_message() {
        let mut seen = Duplicates::default();
        seen.remember(&tag("1", "a"), MessageId::new(1, 1), 0);
        assert_eq!(seen.look(&tag("1", "a"), REMEMBERED_US + 1), Seen::New);
        seen.expire(REMEMBERED_US + 1);
        assert!(seen.by_identity.is_empty() && seen.by_content.is_empty() && seen.in_order.is_empty());
    }

    #[test]
    fn a_control_id_used_for_two_messages_does_not_make_the_first_one_new() {
        let mut seen = Duplicates::default();
        let (first, second) = (MessageId::new(1, 1), MessageId::new(2, 1));
        seen.remember(&tag("1", "a"), first, 0);
        seen.remember(&tag("1", "b"), second, 0);
        assert_eq!(seen.look(&tag("1", "a"), 1), Seen::Same(first));
        seen.forget(&HashSet::from([second]));
        assert_eq!(seen.look(&tag("1", "a"), 1), Seen::Same(first));
        assert_eq!(seen.look(&tag("1", "b"), 1), Seen::OtherContent);
    }

    #[test]
    fn the_number_remembered_is_bounded() {
        let mut seen = Duplicates::default();
        for n in 0..REMEMBERED_MAX as u64 + 10 {
            seen.remember(&tag(&n.to_string(), "a"), MessageId::new(n, 0), 0);
        }
        assert_eq!((seen.by_identity.len(), seen.by_content.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!(seen.look(&tag("9", "a"), 0), Seen::New);
        assert_ne!(seen.look(&tag("10", "a"), 0), Seen::New);
    }

    #[test]
    fn where_one_field_ends_and_the_next_begins_counts() {
        let key = TagKey::new([7; 16]);
        assert_ne!(key.tag([b"AB", b"C"], b"1", b"x").identity, key.tag([b"A", b"BC"], b"1", b"x").identity);
    }
}
