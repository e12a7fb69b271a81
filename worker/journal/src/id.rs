//! Message ids: 48 bits of milliseconds and 52 random ones, written as 20 characters.

use std::fmt;
use std::str::FromStr;

/// Crockford's alphabet: no I, L, O, U, so that an id can be read out over a telephone.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHARACTERS: usize = 20;
const RANDOM_BITS: u32 = 52;
const RANDOM_MASK: u128 = (1 << RANDOM_BITS) - 1;
const MASK: u128 = (1 << 100) - 1;

/// The id of a message, 100 bits. Ids order by the time they were made at, to the millisecond.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

impl MessageId {
    /// Of a time in milliseconds since 1970 (48 bits of it) and 52 of the random bits.
    pub fn new(unix_ms: u64, random: u64) -> Self {
        let time = u128::from(unix_ms & ((1 << 48) - 1));
        MessageId(time << RANDOM_BITS | u128::from(random) & RANDOM_MASK)
    }

    /// The time within, in milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        (self.0 >> RANDOM_BITS) as u64
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        MessageId(u128::from_le_bytes(bytes) & MASK)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; CHARACTERS];
        for (at, character) in text.iter_mut().enumerate() {
            let shift = 5 * (CHARACTERS - 1 - at);
            *character = ALPHABET[(self.0 >> shift) as usize & 31];
        }
        f.pad(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdFault;

impl fmt::Display for IdFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a message id. One has {CHARACTERS} characters of 0-9 and A-Z without I, L, O and U")
    }
}

impl std::error::Error for IdFault {}

impl FromStr for MessageId {
    type Err = IdFault;

    /// Either case; I and L are read as 1, O as 0, as Crockford has it.
    fn from_str(text: &str) -> Result<Self, IdFault> {
        if text.len() != CHARACTERS {
            return Err(IdFault);
        }
        let mut value = 0u128;
        for byte in text.bytes() {
            let upper = match byte.to_ascii_uppercase() {
                b'I' | b'L' => b'1',
                b'O' => b'0',
                other => other,
            };
            let digit = ALPHABET.iter().position(|&known| known == upper).ok_or(IdFault)?;
            value = value << 5 | digit as u128;
        }
        Ok(MessageId(value))
    }
}

/// Makes ids that are unique and increase within a process, also when the clock steps back.
#[derive(Debug, Default)]
pub struct Ids {
    last: Option<MessageId>,
}

impl Ids {
    /// A generator that has given out nothing yet.
    pub fn new() -> Self {
        Ids::default()
    }

    /// Never gives out an id up to this one: for ids found at replay.
    pub fn after(&mut self, id: MessageId) {
        self.last = self.last.max(Some(id));
    }

    /// The next id, for the time now and fresh random bits.
    pub fn next(&mut self, unix_ms: u64, random: u64) -> MessageId {
        let fresh = MessageId::new(unix_ms, random);
        let id = match self.last {
            // A step of up to 2^32 keeps the next id hard to guess; 2^100 is never reached by stepping.
            Some(last) if last >= fresh => MessageId((last.0 + 1 + u128::from(random as u32)) & MASK),
            _ => fresh,
        };
        self.last = Some(id);
        id
    }

    /// The next id, its random bits from the system.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate(&mut self, unix_ms: u64) -> std::io::Result<MessageId> {
        Ok(self.next(unix_ms, random()?))
    }
}

/// 64 random bits from the system.
pub(crate) fn random() -> std::io::Result<u64> {
    getrandom::u64().map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back_is_the_same_id() {
        let id = MessageId::new(1_774_000_000_123, 0xDEAD_BEEF_CAFE_F00D);
        let text = id.to_string();
        assert_eq!(text.len(), 20);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_lowercase().parse(), Ok(id));
        assert_eq!(id.unix_ms(), 1_774_000_000_123);
        assert_eq!(MessageId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn text_orders_as_time_does() {
        let old = MessageId::new(1_000, u64::MAX);
        let new = MessageId::new(1_001, 0);
        assert!(old < new && old.to_string() < new.to_string());
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "0", "U0000000000000000000", "000000000000000000000", "0000000000000000000é"] {
            assert_eq!(text.parse::<MessageId>(), Err(IdFault), "{text}");
        }
        assert_eq!("OIL00000000000000000".parse(), "01100000000000000000".parse::<MessageId>());
    }

    #[test]
    fn ids_increase_when_the_clock_steps_back() {
        let mut ids = Ids::new();
        let mut last = ids.next(1_000_000, 5);
        for (ms, random) in [(1_000_000, 5), (1_000_000, 0), (5, 9), (999_999, u64::MAX), (1_000_001, 0)] {
            let id = ids.next(ms, random);
            assert!(id > last);
            last = id;
        }
    }
}
