//! A document whose cross-reference is damaged: its objects found by looking through the whole file.
//!
//! lopdf does the looking. It is kept from the damaged cross-reference, whose entries could send it over the same
//! bytes again and again, and what it could cost is bounded before it starts.

use crate::encryption;
use crate::lexer::{Lexer, is_regular};
use crate::limits::Limits;
use crate::stamp::{Reason, Stopped};
use crate::stream;
use crate::xref;
use lopdf::encryption::DecryptionError;
use lopdf::xref::XrefEntry;
use lopdf::{Dictionary, Document, EncryptionState, LoadOptions, Object, ObjectId, Stream};
use std::collections::BTreeMap;
use std::ops::Range;

/// What was found.
pub(crate) struct Recovered {
    /// Decrypted.
    pub(crate) objects: BTreeMap<ObjectId, Object>,
    pub(crate) trailer: Dictionary,
    /// As in the header.
    pub(crate) version: Vec<u8>,
    pub(crate) encryption: Option<EncryptionState>,
    /// The encryption dictionary, which itself is never encrypted.
    pub(crate) encrypt_id: Option<ObjectId>,
}

/// Looks through `bytes`, which start at the header.
pub(crate) fn recover(bytes: &[u8], limits: &Limits) -> Result<Recovered, Stopped> {
    let decompressed_max = affordable(bytes, limits)?;
    let blinded = without_startxref(bytes);
    let options = LoadOptions {
        max_decompressed_size: Some(decompressed_max),
        force_reconstruct: true,
        ..LoadOptions::default()
    };
    let mut document = Document::load_mem_with_options(&blinded, options).map_err(|error| match error {
        lopdf::Error::InvalidPassword | lopdf::Error::Decryption(DecryptionError::IncorrectPassword) => {
            Stopped::Reason(Reason::Password)
        }
        lopdf::Error::Decompress(_) => Stopped::Reason(Reason::TooMuch("decompressed bytes")),
        lopdf::Error::Decryption(error) => Stopped::Reason(Reason::Encryption(error.to_string())),
        lopdf::Error::UnsupportedSecurityHandler(_) => {
            Stopped::Reason(Reason::Encryption("an unknown handler".into()))
        }
        _ => Stopped::Damaged("no catalog was found".into()),
    })?;
    drop(blinded);
    if document.trailer.has(b"Encrypt") {
        return Err(Stopped::Reason(Reason::Password));
    }
    let encryption = document.encryption_state.take();
    if encryption.is_none() {
        add_missed(bytes, &mut document, limits);
    }
    let mut trailer = document.trailer;
    let mut objects = document.objects;
    // Their objects are all here by themselves.
    objects.retain(|_, object| !is_of_cross_reference(object));
    let mut encrypt_id = None;
    if let Some(state) = &encryption {
        let (id, dictionary) = encrypt_dictionary(bytes, &document.reference_table.entries, state)
            .ok_or_else(|| Stopped::Reason(Reason::Encryption("its dictionary is damaged".into())))?;
        let id = id.unwrap_or_else(|| (objects.keys().next_back().map_or(1, |id| id.0.saturating_add(1)), 0));
        objects.insert(id, dictionary);
        trailer.set("Encrypt", Object::Reference(id));
        encrypt_id = Some(id);
    }
    let version: Vec<u8> =
        bytes[5..].iter().copied().take_while(|b| b.is_ascii_digit() || *b == b'.').take(3).collect();
    let version = if version.len() == 3 { version } else { b"1.7".to_vec() };
    Ok(Recovered { objects, trailer, version, encryption, encrypt_id })
}

/// What one stream may be decompressed to, if the file can be read whole within the limits at all.
fn affordable(bytes: &[u8], limits: &Limits) -> Result<usize, Stopped> {
    if bytes.len() > limits.recovered_bytes_max {
        return Err(Stopped::Reason(Reason::TooMuch("bytes to be recovered")));
    }
    // An object takes at least one of these.
    let mut starts = 0usize;
    for range in outside_streams(bytes) {
        let start = |pair: &&[u8]| !is_regular(pair[0]) && pair[1] != b' ';
        starts += bytes[range].windows(2).filter(start).count();
        if starts > limits.objects_max {
            return Err(Stopped::Reason(Reason::TooMuch("objects")));
        }
    }
    let containers = memchr::memmem::find_iter(bytes, b"ObjStm").count()
        + memchr::memmem::find_iter(bytes, b"/XRef").count();
    // Objects weigh some fifty times their bytes once read: a third of what content may come to is plenty.
    Ok((limits.decompressed_bytes_max / 3).max(bytes.len() * 2) / containers.max(1))
}

/// A copy in which no cross-reference is pointed at; what streams hold is theirs.
fn without_startxref(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for range in outside_streams(bytes) {
        for at in memchr::memmem::find_iter(&bytes[range.clone()], b"startxref") {
            copy[range.start + at..range.start + at + 9].fill(b' ');
        }
    }
    copy
}

/// The parts of a file between its streams.
fn outside_streams(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        (at < bytes.len()).then(|| {
            let start = at;
            let stream = memchr::memmem::find(&bytes[start..], b"stream")
                .map_or(bytes.len(), |found| start + found + 6);
            at = memchr::memmem::find(&bytes[stream..], b"endstream")
                .map_or(bytes.len(), |found| stream + found + 9);
            start..stream
        })
    })
}

/// Objects lopdf saw and could not read, which readers can.
fn add_missed(bytes: &[u8], document: &mut Document, limits: &Limits) {
    let mut left = limits.objects_max;
    for (&number, entry) in &document.reference_table.entries {
        let XrefEntry::Normal { offset, generation } = *entry else { continue };
        let empty = |object: &Object| object.as_stream().is_ok_and(|stream| stream.content.is_empty());
        if document.objects.get(&(number, generation)).is_some_and(|object| !empty(object)) {
            continue;
        }
        let Some((_, _, at)) = xref::object_at(bytes, offset as usize) else { continue };
        let mut lexer = Lexer::new(bytes, at);
        let Ok(object) = lexer.object(&mut left) else { continue };
        let object = match object {
            Object::Dictionary(dict) => {
                let length = match dict.get(b"Length") {
                    Ok(Object::Reference(id)) => {
                        document.objects.get(id).and_then(|length| length.as_i64().ok())
                    }
                    Ok(length) => length.as_i64().ok(),
                    Err(_) => None,
                };
                match stream::data(bytes, &mut lexer, length) {
                    Some(data) => Object::Stream(Stream {
                        dict,
                        content: bytes[data].to_vec(),
                        allows_compression: false,
                        start_position: None,
                    }),
                    None => Object::Dictionary(dict),
                }
            }
            other => other,
        };
        document.objects.insert((number, generation), object);
    }
}

fn is_of_cross_reference(object: &Object) -> bool {
    object.as_stream().is_ok_and(|stream| stream.dict.has_type(b"XRef") || stream.dict.has_type(b"ObjStm"))
}

/// The encryption dictionary, which lopdf takes out of what it decrypts.
fn encrypt_dictionary(
    bytes: &[u8],
    entries: &BTreeMap<u32, XrefEntry>,
    state: &EncryptionState,
) -> Option<(Option<ObjectId>, Object)> {
    let Some(id) = state.encrypt_object_id() else {
        return Some((None, Object::Dictionary(state.encode().ok()?)));
    };
    let XrefEntry::Normal { offset, .. } = *entries.get(&id.0)? else { return None };
    let (_, _, at) = xref::object_at(bytes, offset as usize)?;
    let dictionary = Lexer::new(bytes, at).object(&mut 10_000).ok()?;
    encryption::is_complete(&dictionary).then_some((Some(id), dictionary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pointer_to_the_cross_reference_is_blanked_and_not_what_a_stream_says() {
        let bytes = b"1 0 obj<<>>stream\nthe startxref\nendstream endobj startxref\n3";
        let blinded = without_startxref(bytes);
        assert_eq!(blinded, b"1 0 obj<<>>stream\nthe startxref\nendstream endobj          \n3");
    }

    #[test]
    fn what_cannot_be_afforded_is_not_read() {
        let limits = Limits { objects_max: 1000, ..Limits::default() };
        assert!(affordable(&b"[0 0]".repeat(100), &limits).is_ok());
        assert!(affordable(&b"[0 0]".repeat(1000), &limits).is_err());
        assert!(
            affordable(&[b"stream ", &b"[0 0]".repeat(1000)[..], b" endstream"].concat(), &limits).is_ok()
        );
    }
}
