//! Where a file keeps its objects: the cross-reference sections, newest first, from `startxref` back through `/Prev`.
//!
//! Read strictly. A reader that finds its way through a damaged cross-reference does so by guessing, and each guesses
//! otherwise; an update appended to such a file is what made 19 of 25 unreadable. So here damage is only told, and
//! [`crate::recovery`] writes the file anew.

use crate::lexer::{Lexer, Stop, is_space};
use crate::limits::Limits;
use crate::stream;
use lopdf::{Dictionary, Object};
use std::collections::{HashMap, HashSet};

/// Readers look for `startxref` and `%%EOF` this far from the end, the strictest of them.
const TAIL_BYTES: usize = 1024;

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Free,
    At { offset: usize, generation: u16 },
    Within { container: u32, index: u32 },
}

/// How the newest section is written, and so the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Table,
    Stream,
}

/// A file's cross-reference, all sections laid over one another.
pub(crate) struct Xref {
    pub(crate) entries: HashMap<u32, Entry>,
    /// Of the newest section.
    pub(crate) trailer: Dictionary,
    pub(crate) kind: Kind,
    /// Where the newest section is.
    pub(crate) start: usize,
}

/// Why the cross-reference is not to be relied on, or that it is beyond a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Damaged(String),
    TooMuch(&'static str),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(what.into()))
}

/// Reads the cross-reference of `bytes`, which start at the header.
pub(crate) fn read(bytes: &[u8], limits: &Limits, decompressed: &mut usize) -> Result<Xref, Fault> {
    let tail = bytes.len().saturating_sub(TAIL_BYTES);
    let Some(at) = memchr::memmem::rfind(&bytes[tail..], b"startxref") else {
        return damaged("startxref is missing");
    };
    let Some(start) = Lexer::new(bytes, tail + at + b"startxref".len()).take_unsigned() else {
        return damaged("startxref names no place");
    };
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    let mut reader = Reader {
        bytes,
        limits,
        decompressed,
        objects: limits.objects_max,
        entries: HashMap::new(),
        seen: HashSet::new(),
    };
    let (kind, trailer) = reader.section(start)?;
    let mut previous = previous_of(&trailer)?;
    while let Some(at) = previous {
        let (_, older) = reader.section(at)?;
        previous = previous_of(&older)?;
    }
    if !trailer.has(b"Root") {
        return damaged("the trailer names no catalog");
    }
    if trailer.get(b"Size").and_then(Object::as_i64).is_err() {
        return damaged("the trailer has no size");
    }
    Ok(Xref { entries: reader.entries, trailer, kind, start })
}

fn previous_of(trailer: &Dictionary) -> Result<Option<usize>, Fault> {
    match trailer.get(b"Prev") {
        Err(_) | Ok(Object::Null | Object::Integer(0)) => Ok(None),
        Ok(Object::Integer(at)) => match usize::try_from(*at) {
            Ok(at) => Ok(Some(at)),
            Err(_) => damaged("the previous cross-reference is before the file"),
        },
        Ok(Object::Real(at)) if *at >= 0.0 => Ok(Some(*at as usize)),
        Ok(_) => damaged("the trailer's Prev is no number"),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    limits: &'a Limits,
    decompressed: &'a mut usize,
    objects: usize,
    entries: HashMap<u32, Entry>,
    seen: HashSet<usize>,
}

impl Reader<'_> {
    fn section(&mut self, at: usize) -> Result<(Kind, Dictionary), Fault> {
        if at >= self.bytes.len() {
            return damaged(format!("the cross-reference would be at {at}, past the end"));
        }
        if !self.seen.insert(at) {
            return damaged("the cross-references run in a circle");
        }
        let mut lexer = Lexer::new(self.bytes, at);
        if !lexer.take_word(b"xref") {
            return Ok((Kind::Stream, self.stream(at)?));
        }
        let free = self.table(&mut lexer)?;
        let trailer = match self.object(&mut lexer)? {
            Object::Dictionary(trailer) => trailer,
            _ => return damaged("a trailer is no dictionary"),
        };
        // A hybrid file hides objects from old readers: free in the table, and found in the stream.
        if let Ok(at) = trailer.get(b"XRefStm").and_then(Object::as_i64) {
            let Ok(at) = usize::try_from(at) else {
                return damaged("a hidden cross-reference is before the file");
            };
            if at >= self.bytes.len() || !self.seen.insert(at) {
                return damaged("a hidden cross-reference is misplaced");
            }
            self.stream(at)?;
        }
        for number in free {
            self.entries.entry(number).or_insert(Entry::Free);
        }
        Ok((Kind::Table, trailer))
    }

    fn object(&mut self, lexer: &mut Lexer) -> Result<Object, Fault> {
        lexer.object(&mut self.objects).map_err(|stop| match stop {
            Stop::Malformed => Fault::Damaged("a trailer is malformed".into()),
            Stop::Nesting | Stop::Objects => Fault::TooMuch("objects"),
        })
    }

    fn add(&mut self, number: u32, entry: Entry) -> Result<(), Fault> {
        self.entries.entry(number).or_insert(entry);
        if self.entries.len() > self.limits.entries_max {
            return Err(Fault::TooMuch("cross-reference entries"));
        }
        Ok(())
    }

    /// The numbers listed as free, for whoever knows what hides behind them.
    fn table(&mut self, lexer: &mut Lexer) -> Result<Vec<u32>, Fault> {
        let mut free = Vec::new();
        loop {
            if lexer.take_word(b"trailer") {
                return Ok(free);
            }
            let (Some(first), Some(count)) = (lexer.take_unsigned(), lexer.take_unsigned()) else {
                return damaged("a cross-reference table has a line of another kind");
            };
            for index in 0..count {
                if lexer.at() >= self.bytes.len() {
                    return damaged("a cross-reference table is cut short");
                }
                let (Some(offset), Some(generation)) = (lexer.take_unsigned(), lexer.take_unsigned()) else {
                    return damaged("a cross-reference table is shorter than it says");
                };
                let number = first.checked_add(index).and_then(|number| u32::try_from(number).ok());
                let Some(number) = number else { return damaged("an object number is out of range") };
                if lexer.take_word(b"n") {
                    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                    let generation = u16::try_from(generation).unwrap_or(u16::MAX);
                    self.add(number, Entry::At { offset, generation })?;
                } else if lexer.take_word(b"f") {
                    free.push(number);
                } else {
                    return damaged("a cross-reference table has an entry of another kind");
                }
                if free.len() > self.limits.entries_max {
                    return Err(Fault::TooMuch("cross-reference entries"));
                }
            }
        }
    }

    fn stream(&mut self, at: usize) -> Result<Dictionary, Fault> {
        let mut lexer = Lexer::new(self.bytes, at);
        if lexer.take_object_head().is_none() {
            return damaged(format!("no cross-reference is at {at}"));
        }
        let Object::Dictionary(dictionary) = self.object(&mut lexer)? else {
            return damaged(format!("no cross-reference is at {at}"));
        };
        let length = dictionary.get(b"Length").and_then(Object::as_i64).ok();
        let Some(data) = stream::data(self.bytes, &mut lexer, length) else {
            return damaged("a cross-reference stream has no data");
        };
        if !dictionary.has_type(b"XRef") {
            return damaged(format!("no cross-reference is at {at}"));
        }
        let content = match stream::decode(&dictionary, &self.bytes[data], self.decompressed) {
            Ok(content) => content,
            Err(stream::Undecoded::TooMuch) => return Err(Fault::TooMuch("decompressed bytes")),
            Err(stream::Undecoded::Unreadable) => {
                return damaged("a cross-reference stream cannot be decoded");
            }
        };
        self.stream_entries(&dictionary, &content)?;
        Ok(dictionary)
    }

    fn stream_entries(&mut self, dictionary: &Dictionary, content: &[u8]) -> Result<(), Fault> {
        let widths = numbers(dictionary.get(b"W").ok());
        let &[kind, second, third] = &widths[..] else {
            return damaged("a cross-reference stream has no widths");
        };
        let (Ok(kind), Ok(second), Ok(third)) =
            (usize::try_from(kind), usize::try_from(second), usize::try_from(third))
        else {
            return damaged("a cross-reference stream has odd widths");
        };
        let width = kind.saturating_add(second).saturating_add(third);
        if width == 0 || kind > 8 || second > 8 || third > 8 {
            return damaged("a cross-reference stream has odd widths");
        }
        let size = dictionary.get(b"Size").and_then(Object::as_i64).unwrap_or(0);
        let mut index = numbers(dictionary.get(b"Index").ok());
        if index.is_empty() {
            index = vec![0, size];
        }
        let mut rows = content.chunks_exact(width);
        for range in index.chunks_exact(2) {
            for number in range[0]..range[0].saturating_add(range[1]) {
                // Readers stop where the data does.
                let Some(row) = rows.next() else { return Ok(()) };
                let Ok(number) = u32::try_from(number) else {
                    return damaged("an object number is out of range");
                };
                let (kind_bytes, rest) = row.split_at(kind);
                let (second_bytes, third_bytes) = rest.split_at(second);
                let (second, third) = (big_endian(second_bytes), big_endian(third_bytes));
                let entry = match if kind == 0 { 1 } else { big_endian(kind_bytes) } {
                    1 => Entry::At {
                        offset: usize::try_from(second).unwrap_or(usize::MAX),
                        generation: u16::try_from(third).unwrap_or(u16::MAX),
                    },
                    2 => Entry::Within {
                        container: u32::try_from(second).unwrap_or(u32::MAX),
                        index: u32::try_from(third).unwrap_or(u32::MAX),
                    },
                    // Kinds of a later version are references to null (§ 7.5.8.3).
                    _ => Entry::Free,
                };
                self.add(number, entry)?;
            }
        }
        Ok(())
    }
}

fn numbers(object: Option<&Object>) -> Vec<i64> {
    match object {
        Some(Object::Array(items)) => items.iter().filter_map(|item| item.as_i64().ok()).collect(),
        _ => Vec::new(),
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Where the header is, within the first 1,024 bytes as readers have it; offsets count from there.
pub(crate) fn header(bytes: &[u8]) -> Option<usize> {
    let head = &bytes[..bytes.len().min(TAIL_BYTES + 5)];
    memchr::memmem::find(head, b"%PDF-")
}

/// Whether an object's head is at `offset`, white space before it allowed.
pub(crate) fn object_at(bytes: &[u8], offset: usize) -> Option<(u32, u16, usize)> {
    let rest = bytes.get(offset..)?;
    let space = rest.iter().take_while(|&&byte| is_space(byte)).count();
    let mut lexer = Lexer::new(bytes, offset + space);
    let (number, generation) = lexer.take_object_head()?;
    Some((number, generation, lexer.at()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Xref, Fault> {
        let start = text.find("xref").unwrap_or(0);
        let bytes = text.replace("START", &start.to_string()).into_bytes();
        read(&bytes, &Limits::default(), &mut 1_000_000)
    }

    #[test]
    fn a_table_is_read_with_its_trailer() {
        let xref =
            of("%PDF-1.4\nxref\n0 2\n0000000000 65535 f \n0000000017 00000 n \ntrailer<</Root 1 0 R/Size 2>>\nstartxref\nSTART\n%%EOF")
                .unwrap();
        assert_eq!(xref.kind, Kind::Table);
        assert_eq!(xref.entries[&1], Entry::At { offset: 17, generation: 0 });
    }

    #[test]
    fn damage_is_told_and_not_guessed_away() {
        for text in [
            "%PDF-1.4\nxref\n0 2\n0000000000 65535 f \ntrailer<</Root 1 0 R>>\nstartxref\nSTART\n%%EOF",
            "%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer<</Root 1 0 R/Prev 9>>\nstartxref\nSTART\n%%EOF",
            "%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer<</Root 1 0 R/Prev 9999>>\nstartxref\nSTART\n%%EOF",
            "%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer<</Root 1 0 R>>\nstartxref\nSTART\n%%EOF",
            "%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer<<>>\nstartxref\nSTART\n%%EOF",
            "%PDF-1.4\nxref\n0 99999999999\n0000000000 65535 f \ntrailer<<>>\nstartxref\nSTART\n%%EOF",
            "%PDF-1.4\nstartxref\n3\n%%EOF",
            "%PDF-1.4\nstartxref\n300\n%%EOF",
            "%PDF-1.4\n",
        ] {
            assert!(matches!(of(text), Err(Fault::Damaged(_))), "{text}");
        }
    }
}
