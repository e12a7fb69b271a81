//! Objects into bytes: an update appended to a file, or a file written anew.

use crate::xref::Kind;
use lopdf::{Dictionary, Object, ObjectId, Stream, StringFormat};
use md5::{Digest, Md5};
use std::collections::BTreeMap;
use std::io::Write;

/// What a cross-reference stream has in its dictionary and the next one must not take over.
const OF_SECTION: [&[u8]; 11] = [
    b"Type",
    b"Size",
    b"Index",
    b"W",
    b"Prev",
    b"XRefStm",
    b"Length",
    b"Filter",
    b"DecodeParms",
    b"DL",
    b"F",
];

/// What comes behind a file of `length` bytes (from its header) whose cross-reference is at `previous`.
pub(crate) struct Update<'a> {
    pub(crate) length: usize,
    pub(crate) line_ended: bool,
    pub(crate) previous: usize,
    pub(crate) kind: Kind,
    pub(crate) trailer: &'a Dictionary,
    pub(crate) next_number: u32,
}

impl Update<'_> {
    /// The bytes to append.
    pub(crate) fn write(&self, objects: &BTreeMap<ObjectId, Object>) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.line_ended {
            out.push(b'\n');
        }
        let mut places: Vec<(ObjectId, usize)> = Vec::with_capacity(objects.len() + 1);
        for (&id, object) in objects {
            places.push((id, self.length + out.len()));
            indirect(&mut out, id, object);
        }
        let mut trailer = trailer(self.trailer, &out);
        trailer.set("Prev", Object::Integer(self.previous as i64));
        let start = self.length + out.len();
        match self.kind {
            Kind::Table => {
                trailer.set("Size", Object::Integer(i64::from(self.next_number)));
                // Object 0 heads the list of free ones and is part of every table readers know.
                out.extend_from_slice(b"xref\n0 1\n0000000000 65535 f \n");
                table(&mut out, &places);
                out.extend_from_slice(b"trailer\n");
                dictionary(&mut out, &trailer);
                out.push(b'\n');
            }
            Kind::Stream => {
                let own = (self.next_number, 0);
                places.push((own, start));
                trailer.set("Size", Object::Integer(i64::from(self.next_number) + 1));
                indirect(&mut out, own, &Object::Stream(cross_reference(trailer, &places)));
            }
        }
        end(&mut out, start);
        out
    }
}

/// A whole file.
pub(crate) fn whole(
    version: &[u8],
    objects: &BTreeMap<ObjectId, Object>,
    old_trailer: &Dictionary,
) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"%PDF-");
    out.extend_from_slice(version);
    out.extend_from_slice(b"\n%\xE2\xE3\xCF\xD3\n");
    let mut places = Vec::with_capacity(objects.len());
    for (&id, object) in objects {
        places.push((id, out.len()));
        indirect(&mut out, id, object);
    }
    let mut trailer = trailer(old_trailer, &out);
    let size = objects.keys().next_back().map_or(1, |id| id.0.saturating_add(1));
    trailer.set("Size", Object::Integer(i64::from(size)));
    let start = out.len();
    out.extend_from_slice(b"xref\n");
    if places.first().is_some_and(|place| place.0.0 == 1) {
        let run = places.iter().zip(1u32..).take_while(|(place, number)| place.0.0 == *number).count();
        let _ = writeln!(out, "0 {}\n0000000000 65535 f ", run + 1);
        entries(&mut out, &places[..run]);
        table(&mut out, &places[run..]);
    } else {
        out.extend_from_slice(b"0 1\n0000000000 65535 f \n");
        table(&mut out, &places);
    }
    out.extend_from_slice(b"trailer\n");
    dictionary(&mut out, &trailer);
    out.push(b'\n');
    end(&mut out, start);
    out
}

fn end(out: &mut Vec<u8>, start: usize) {
    let _ = write!(out, "startxref\n{start}\n%%EOF\n");
}

/// The old trailer without what belongs to its section; the second half of its id is that of this version of the file.
fn trailer(old: &Dictionary, body: &[u8]) -> Dictionary {
    let mut trailer = old.clone();
    for key in OF_SECTION {
        trailer.remove(key);
    }
    let digest = Object::String(Md5::digest(body).to_vec(), StringFormat::Hexadecimal);
    let encrypted = trailer.has(b"Encrypt");
    match trailer.get_mut(b"ID") {
        Ok(Object::Array(halves)) if matches!(halves[..], [Object::String(..), Object::String(..)]) => {
            halves[1] = digest
        }
        // Missing, it is made; odd, or missing where the key of an encrypted file hangs on it, it stays so.
        Err(_) if !encrypted => trailer.set("ID", Object::Array(vec![digest.clone(), digest])),
        Err(_) | Ok(_) => {}
    }
    trailer
}

fn runs(places: &[(ObjectId, usize)]) -> impl Iterator<Item = &[(ObjectId, usize)]> {
    places.chunk_by(|a, b| a.0.0 + 1 == b.0.0)
}

fn table(out: &mut Vec<u8>, places: &[(ObjectId, usize)]) {
    for run in runs(places) {
        let _ = writeln!(out, "{} {}", run[0].0.0, run.len());
        entries(out, run);
    }
}

fn entries(out: &mut Vec<u8>, places: &[(ObjectId, usize)]) {
    for ((_, generation), at) in places {
        let _ = writeln!(out, "{at:010} {generation:05} n ");
    }
}

fn cross_reference(mut dict: Dictionary, places: &[(ObjectId, usize)]) -> Stream {
    let mut index = Vec::new();
    let mut content = Vec::with_capacity(places.len() * 11);
    for run in runs(places) {
        index.extend([i64::from(run[0].0.0), run.len() as i64].map(Object::Integer));
        for ((_, generation), at) in run {
            content.push(1);
            content.extend_from_slice(&(*at as u64).to_be_bytes());
            content.extend_from_slice(&generation.to_be_bytes());
        }
    }
    dict.set("Type", Object::Name(b"XRef".to_vec()));
    dict.set("W", Object::Array([1, 8, 2].map(Object::Integer).to_vec()));
    dict.set("Index", Object::Array(index));
    Stream { dict, content, allows_compression: false, start_position: None }
}

fn indirect(out: &mut Vec<u8>, id: ObjectId, object: &Object) {
    let _ = writeln!(out, "{} {} obj", id.0, id.1);
    write_object(out, object);
    out.extend_from_slice(b"\nendobj\n");
}

/// An object as it stands in a file.
pub(crate) fn write_object(out: &mut Vec<u8>, object: &Object) {
    match object {
        Object::Null => out.extend_from_slice(b"null"),
        Object::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Object::Integer(value) => drop(write!(out, "{value}")),
        Object::Real(value) => real(out, *value),
        Object::Name(bytes) => name(out, bytes),
        Object::String(bytes, StringFormat::Literal) => literal(out, bytes),
        Object::String(bytes, StringFormat::Hexadecimal) => {
            out.push(b'<');
            bytes.iter().for_each(|byte| drop(write!(out, "{byte:02X}")));
            out.push(b'>');
        }
        Object::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b' ');
                }
                write_object(out, item);
            }
            out.push(b']');
        }
        Object::Dictionary(entries) => dictionary(out, entries),
        Object::Stream(stream) => {
            let mut dict = stream.dict.clone();
            dict.set("Length", Object::Integer(stream.content.len() as i64));
            dictionary(out, &dict);
            out.extend_from_slice(b"\nstream\n");
            out.extend_from_slice(&stream.content);
            out.extend_from_slice(b"\nendstream");
        }
        Object::Reference(id) => drop(write!(out, "{} {} R", id.0, id.1)),
    }
}

fn dictionary(out: &mut Vec<u8>, dictionary: &Dictionary) {
    out.extend_from_slice(b"<<");
    for (key, value) in dictionary {
        name(out, key);
        out.push(b' ');
        write_object(out, value);
    }
    out.extend_from_slice(b">>");
}

/// Never with an exponent, which PDF does not know.
fn real(out: &mut Vec<u8>, value: f32) {
    let value = if value.is_finite() { value } else { 0.0 };
    let _ = write!(out, "{value}");
}

fn name(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'/');
    for &byte in bytes {
        if byte.is_ascii_graphic() && crate::lexer::is_regular(byte) && byte != b'#' {
            out.push(byte);
        } else {
            let _ = write!(out, "#{byte:02X}");
        }
    }
}

/// A string in parentheses.
pub(crate) fn literal(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'(');
    for &byte in bytes {
        match byte {
            b'(' | b')' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            // An end of line within a string would be read as LF, whatever it was.
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\n' => out.extend_from_slice(b"\\n"),
            _ => out.push(byte),
        }
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Lexer;

    #[test]
    fn what_is_written_reads_back() {
        let mut inner = Dictionary::new();
        inner.set(b"A key/#".to_vec(), Object::Real(1e-7));
        inner.set(b"S".to_vec(), Object::String(b"(\\\r\n)\x00\xFF".to_vec(), StringFormat::Literal));
        inner.set(b"H".to_vec(), Object::String(b"\x00\xAB".to_vec(), StringFormat::Hexadecimal));
        let object = Object::Array(vec![
            Object::Dictionary(inner),
            Object::Reference((3, 1)),
            Object::Integer(-5),
            Object::Integer(7),
            Object::Boolean(true),
            Object::Null,
            Object::Real(-12345.678),
        ]);
        let mut out = Vec::new();
        write_object(&mut out, &object);
        assert_eq!(Lexer::new(&out, 0).object(&mut 100).unwrap(), object);
    }

    #[test]
    fn an_id_of_two_strings_keeps_its_first_half_and_an_odd_one_stays() {
        let half = |byte| Object::String(vec![byte], StringFormat::Hexadecimal);
        let with = |id| trailer(&Dictionary::from_iter([("ID", id)]), b"body").get(b"ID").unwrap().clone();
        let kept = with(Object::Array(vec![half(1), half(2)]));
        assert_eq!(kept.as_array().unwrap()[0], half(1));
        assert_ne!(kept.as_array().unwrap()[1], half(2));
        assert_eq!(with(Object::Array(vec![half(1)])), Object::Array(vec![half(1)]));
        let encrypted = trailer(&Dictionary::from_iter([("Encrypt", Object::Null)]), b"body");
        assert!(!encrypted.has(b"ID"));
    }
}
