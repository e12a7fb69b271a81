//! The delimiters a message declares in MSH-1 and MSH-2.

use crate::header::HeaderFault;
use std::ops::Range;

/// Stands in a [`Delimiters`] for a character the sender does not use; it separates nothing.
pub const UNUSED: u8 = 0;

/// The delimiters of one message. All are ASCII punctuation, or [`UNUSED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiters {
    /// Between fields, MSH-1.
    pub field: u8,
    /// Between components, first character of MSH-2.
    pub component: u8,
    /// Between repetitions, second character.
    pub repetition: u8,
    /// Around escape sequences, third character.
    pub escape: u8,
    /// Between subcomponents, fourth character.
    pub subcomponent: u8,
    /// Marks truncated values from HL7 2.7, fifth character.
    pub truncation: Option<u8>,
}

impl Default for Delimiters {
    fn default() -> Self {
        Delimiters {
            field: b'|',
            component: b'^',
            repetition: b'~',
            escape: b'\\',
            subcomponent: b'&',
            truncation: None,
        }
    }
}

impl Delimiters {
    /// Reads MSH-1 and MSH-2 from bytes that begin with `MSH`.
    ///
    /// An empty MSH-2 counts as `^~\&`; characters missing at its end are not in use. A character that is there
    /// already is passed over, which makes `^~\\&`, a doubled backslash of some sender's source code, what it means.
    pub(crate) fn read(msh: &[u8]) -> Result<Delimiters, HeaderFault> {
        if msh.starts_with(b"MSH") { Delimiters::declared_by(msh) } else { Err(HeaderFault::Missing) }
    }

    /// Reads the same two fields of an MSH, FHS or BHS, whichever it is.
    pub(crate) fn declared_by(header: &[u8]) -> Result<Delimiters, HeaderFault> {
        let field = *header.get(3).ok_or(HeaderFault::Short)?;
        if !is_separator(field) {
            return Err(HeaderFault::Unreadable);
        }
        let declared = &header[4..];
        let end =
            declared.iter().position(|&b| b == field || b == b'\r' || b == b'\n').unwrap_or(declared.len());
        if end == 0 {
            return Ok(Delimiters { field, ..Delimiters::default() }.without_clash());
        }
        let mut found = [UNUSED; 5];
        let mut count = 0;
        for &byte in &declared[..end] {
            if !is_separator(byte) {
                return Err(HeaderFault::Unreadable);
            }
            if count < found.len() && !found[..count].contains(&byte) {
                found[count] = byte;
                count += 1;
            }
        }
        let [component, repetition, escape, subcomponent, truncation] = found;
        let truncation = (truncation != UNUSED).then_some(truncation);
        Ok(Delimiters { field, component, repetition, escape, subcomponent, truncation })
    }

    /// All four encoding characters in use: for an answer, which needs what its sender may do without. What is missing
    /// becomes a character that is used for nothing else.
    pub(crate) fn completed(mut self) -> Delimiters {
        let choose = |delimiters: &Delimiters| {
            let Delimiters { field, component, repetition, escape, subcomponent, truncation } = *delimiters;
            let used = [field, component, repetition, escape, subcomponent, truncation.unwrap_or(UNUSED)];
            *b"^~\\&|!#".iter().find(|b| !used.contains(b)).expect("seven are more than the others can use")
        };
        let slots: [fn(&mut Delimiters) -> &mut u8; 4] =
            [|d| &mut d.component, |d| &mut d.subcomponent, |d| &mut d.repetition, |d| &mut d.escape];
        for slot in slots {
            if *slot(&mut self) == UNUSED {
                *slot(&mut self) = choose(&self);
            }
        }
        self
    }

    /// MSH-2 without a truncation character.
    pub(crate) fn encoding_characters(&self) -> [u8; 4] {
        [self.component, self.repetition, self.escape, self.subcomponent]
    }

    /// With the standard's characters assumed, one of them may be the field separator.
    fn without_clash(mut self) -> Delimiters {
        let field = self.field;
        for slot in [&mut self.component, &mut self.repetition, &mut self.escape, &mut self.subcomponent] {
            if *slot == field {
                *slot = UNUSED;
            }
        }
        self
    }
}

/// Can stand as a delimiter: ASCII punctuation.
pub(crate) fn is_separator(byte: u8) -> bool {
    byte.is_ascii_punctuation()
}

/// Where the n-th part (from 1) of a value lies; `None` when there are fewer.
pub(crate) fn part(value: &[u8], delimiter: u8, n: usize) -> Option<Range<usize>> {
    if delimiter == UNUSED {
        return (n == 1).then_some(0..value.len());
    }
    let mut start = 0;
    for _ in 1..n {
        start += find(delimiter, &value[start..])? + 1;
    }
    (n > 0).then(|| start..find(delimiter, &value[start..]).map_or(value.len(), |at| start + at))
}

/// Where the n-th component (from 1) of the first repetition of a value lies; `None` when there are fewer.
pub(crate) fn component(value: &[u8], delimiters: &Delimiters, n: u16) -> Option<Range<usize>> {
    let is = |byte: u8, delimiter: u8| byte == delimiter && delimiter != UNUSED;
    let (mut start, mut left) = (0, n.checked_sub(1)?);
    for (at, &byte) in value.iter().enumerate() {
        let separates = is(byte, delimiters.component);
        if is(byte, delimiters.repetition) || separates && left == 0 {
            return (left == 0).then_some(start..at);
        }
        if separates {
            (start, left) = (at + 1, left - 1);
        }
    }
    (left == 0).then_some(start..value.len())
}

/// Where a delimiter first stands. Most parts are a few bytes long, where a search that is made for many bytes costs more
/// than it saves.
pub(crate) fn find(delimiter: u8, value: &[u8]) -> Option<usize> {
    const NEAR: usize = 16;
    let (near, far) = value.split_at(value.len().min(NEAR));
    let found = near.iter().position(|&byte| byte == delimiter);
    found.or_else(|| Some(near.len() + memchr::memchr(delimiter, far)?))
}

/// The parts of a value between delimiters, of those a message declares; the whole where the sender does not use that one.
pub fn parts(value: &str, delimiter: u8) -> impl Iterator<Item = &str> {
    let used = delimiter != UNUSED;
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let now = rest?;
        match used.then(|| find(delimiter, now.as_bytes())).flatten() {
            Some(at) => {
                rest = Some(&now[at + 1..]);
                Some(&now[..at])
            }
            None => rest.take(),
        }
    })
}

/// How many parts a value has; an empty one has one.
pub(crate) fn count(value: &[u8], delimiter: u8) -> usize {
    if delimiter == UNUSED { 1 } else { memchr::memchr_iter(delimiter, value).count() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_delimiters_are_read() {
        assert_eq!(Delimiters::read(b"MSH|^~\\&|A"), Ok(Delimiters::default()));
        let truncating = Delimiters { truncation: Some(b'#'), ..Delimiters::default() };
        assert_eq!(Delimiters::read(b"MSH|^~\\&#|A"), Ok(truncating));
    }

    #[test]
    fn uncommon_delimiters_are_read() {
        let found = Delimiters::read(b"MSH@~&#\\@A").unwrap();
        assert_eq!((found.field, found.component, found.repetition), (b'@', b'~', b'&'));
        assert_eq!((found.escape, found.subcomponent), (b'#', b'\\'));
    }

    #[test]
    fn characters_missing_at_the_end_are_not_in_use() {
        let found = Delimiters::read(b"MSH|^~|A").unwrap();
        assert_eq!((found.component, found.repetition), (b'^', b'~'));
        assert_eq!((found.escape, found.subcomponent), (UNUSED, UNUSED));
    }

    #[test]
    fn empty_msh_2_counts_as_the_standard_s() {
        assert_eq!(Delimiters::read(b"MSH||A"), Ok(Delimiters::default()));
        assert_eq!(Delimiters::read(b"MSH^^A").unwrap().component, UNUSED);
    }

    #[test]
    fn doubled_backslash_is_one() {
        assert_eq!(Delimiters::read(b"MSH|^~\\\\&|A"), Ok(Delimiters::default()));
    }

    #[test]
    fn letters_in_place_of_delimiters_are_unreadable() {
        assert_eq!(Delimiters::read(b"MSH|SENDER|A"), Err(HeaderFault::Unreadable));
        assert_eq!(Delimiters::read(b"MSHX^~\\&|A"), Err(HeaderFault::Unreadable));
        assert_eq!(Delimiters::read(b"MSH"), Err(HeaderFault::Short));
        assert_eq!(Delimiters::read(b"PID|1"), Err(HeaderFault::Missing));
    }

    #[test]
    fn part_counts_from_one_and_ends_with_the_value() {
        assert_eq!(part(b"a^b^", b'^', 1), Some(0..1));
        assert_eq!(part(b"a^b^", b'^', 3), Some(4..4));
        assert_eq!(part(b"a^b^", b'^', 4), None);
        assert_eq!(part(b"a\0b", UNUSED, 1), Some(0..3));
        assert_eq!(part(b"a\0b", UNUSED, 2), None);
    }
}
