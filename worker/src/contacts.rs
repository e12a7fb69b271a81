//! Who connects, for the audit: the first of a kind at once, further ones by their number once a minute. Pure.
//!
//! A sender that connects anew for every message, and a scanner that is refused a thousand times a second, are one entry a
//! minute each. Above [`KINDS_MAX`] kinds a minute the rest are counted together.

use link::Contact;
use std::collections::HashMap;
use std::net::IpAddr;

/// How long further ones of a kind are gathered.
const GATHERED_MS: u64 = 60_000;
/// Kinds remembered.
const KINDS_MAX: usize = 256;

/// Connections that are told of together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// From where.
    pub address: IpAddr,
    /// Why refused; `None` where taken.
    pub refused: Option<&'static str>,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// The name in the certificate.
    pub name: Option<String>,
}

/// What is to be told.
#[derive(Debug, Default)]
pub struct Contacts {
    kinds: HashMap<Kind, Tally>,
    others: u64,
}

#[derive(Debug)]
struct Tally {
    told_ms: Option<u64>,
    untold: u64,
}

impl Contacts {
    /// Another one.
    pub fn note(&mut self, kind: Kind) {
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.others += 1;
            return;
        }
        self.kinds.entry(kind).or_insert(Tally { told_ms: None, untold: 0 }).untold += 1;
    }

    /// What is due, at most as much as a report holds; `last` where none will follow.
    pub fn take(&mut self, now_ms: u64, last: bool) -> Vec<Contact> {
        let is_old = |tally: &Tally| tally.told_ms.is_none_or(|told| last || now_ms >= told + GATHERED_MS);
        let mut due = Vec::new();
        self.kinds.retain(|kind, tally| {
            if !is_old(tally) || due.len() == link::CONTACTS_MAX - 1 {
                return true;
            }
            if tally.untold > 0 {
                due.push(kind.told(std::mem::take(&mut tally.untold)));
                tally.told_ms = Some(now_ms);
                return true;
            }
            false
        });
        if self.others > 0 && self.kinds.len() < KINDS_MAX {
            let count = std::mem::take(&mut self.others);
            due.push(Contact { peer: "others".to_owned(), count, ..Contact::default() });
        }
        due
    }
}

impl Kind {
    fn told(&self, count: u64) -> Contact {
        Contact {
            peer: self.address.to_string(),
            refused: self.refused.map(str::to_owned),
            tls: self.tls.map(str::to_owned),
            name: self.name.clone(),
            count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(n: u32) -> Kind {
        Kind { address: IpAddr::from(n.to_be_bytes()), refused: None, tls: None, name: None }
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_by_their_number_after_a_minute() {
        let mut contacts = Contacts::default();
        contacts.note(kind(1));
        assert_eq!(contacts.take(0, false)[0].count, 1);
        contacts.note(kind(1));
        contacts.note(kind(1));
        assert!(contacts.take(59_999, false).is_empty());
        assert_eq!(contacts.take(60_000, false)[0].count, 2);
        assert!(contacts.take(120_000, false).is_empty());
        contacts.note(kind(1));
        assert_eq!(contacts.take(120_001, false)[0].count, 1, "forgotten, so told at once");
        contacts.note(kind(1));
        assert_eq!(contacts.take(120_002, true)[0].count, 1, "nothing is kept back at the end");
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_none_goes_uncounted() {
        let mut contacts = Contacts::default();
        (0..10_000).for_each(|n| contacts.note(kind(n)));
        assert_eq!(contacts.kinds.len(), KINDS_MAX);
        let mut told = 0;
        for second in 0..300 {
            let due = contacts.take(second * 1000, false);
            assert!(due.len() <= link::CONTACTS_MAX);
            told += due.iter().map(|contact| contact.count).sum::<u64>();
        }
        assert_eq!(told, 10_000);
        assert!(contacts.kinds.is_empty());
    }
}
