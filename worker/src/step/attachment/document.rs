//! Documents from parts: which part starts one, which goes on with it, and what of all that decodes.
//!
//! A part that starts no PDF goes on with the one before it. Not all that stands behind a document does: there are
//! thumbnails, lines of text and signatures. What is no data or of another kind is passed over; where doubt remains,
//! the document decides, which is whole when it ends in `%%EOF`. The first part must hold the start of the PDF.

use super::data::{DataEncoding, End, Reading, declared};
use super::places::Part;
use hl7::delimiters::parts;

/// A run of base64 that long is data: no word and no number is.
const RUN_OF_DATA_MIN: usize = 60;
/// A word or number that a person writes is no longer.
const WORD_MAX: usize = 24;

/// An ED has five components; what stands behind that many is no data.
const COMPONENTS_MAX: usize = 64;
/// Pieces of a document, beside one for every so many characters: what is kept of them stays in proportion to them.
const PIECES_FREE: usize = 1000;
const PIECE_CHARS: usize = 16;

/// What other files than PDFs begin with.
const FOREIGN_STARTS: [&[u8]; 12] = [
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"PK\x03\x04",
    b"{\\rtf",
    b"<?xml",
    b"<html",
    b"<HTML",
    b"<!DOCTYPE",
    b"<ClinicalDocument",
];

/// A document's data, as it is spread over the message.
#[derive(Debug)]
pub(super) struct Document<'a> {
    first: Part<'a>,
    encoding: DataEncoding,
    /// The component that holds the data, from 0, and how many there are.
    place: (usize, usize),
    /// Type and subtype, as the sender declares them.
    kind: (&'a str, &'a str),
    pieces: Vec<Piece<'a>>,
    /// Characters in all pieces.
    chars: usize,
    /// More pieces came than a document has.
    is_shredded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    text: &'a str,
    doubt: Doubt,
}

/// How doubtful it is that a piece belongs to its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    /// It starts the document.
    First,
    /// In the same field or one of the same kind, and data.
    None,
    /// Data, in a row that is not the document's by its identifier or declared type.
    Slight,
    /// It reads like words.
    Great,
}

/// The documents among the parts, each with the parts that may go on with it.
pub(super) fn documents<'a>(
    parts: impl Iterator<Item = Part<'a>>,
    reading: Reading<'a>,
) -> impl Iterator<Item = Document<'a>> {
    let mut parts = parts.filter(|part| !part.value.is_empty());
    let mut next: Option<Document<'a>> = None;
    std::iter::from_fn(move || {
        let wanted = |part: Part<'a>| (!part.is_beyond).then(|| Document::start(part, &reading)).flatten();
        let mut document = next.take().or_else(|| parts.find_map(wanted))?;
        for part in parts.by_ref() {
            match Document::start(part, &reading) {
                None => document.go_on(part, &reading),
                Some(other) => {
                    next = Some(other).filter(|_| !part.is_beyond);
                    break;
                }
            }
        }
        Some(document)
    })
}

impl<'a> Document<'a> {
    /// The component of a part that starts a PDF, the last one first: an ED is `source^type^subtype^encoding^data`,
    /// bare data is the only component, and real senders shift them.
    fn start(part: Part<'a>, reading: &Reading<'_>) -> Option<Document<'a>> {
        let components = components(part.value, reading);
        let (at, encoding) = (0..components.len()).rev().find_map(|at| {
            let before = at.checked_sub(1).and_then(|at| declared(components[at]));
            Some((at, reading.pdf(components[at], before)?))
        })?;
        let text = components[at];
        Some(Document {
            first: part,
            encoding,
            place: (at, components.len()),
            kind: kind(&components, at),
            pieces: vec![Piece { text, doubt: Doubt::First }],
            chars: text.len(),
            is_shredded: false,
        })
    }

    /// Takes a part that may go on with the document.
    fn go_on(&mut self, part: Part<'a>, reading: &Reading<'_>) {
        if self.is_shredded {
            return;
        }
        let components = components(part.value, reading);
        let Some(at) = self.data_of(&components) else { return };
        let text = components[at];
        let kind = kind(&components, at);
        let is_other_kind = kind != ("", "")
            && !(kind.0.eq_ignore_ascii_case(self.kind.0) && kind.1.eq_ignore_ascii_case(self.kind.1));
        if is_other_kind && is_foreign(kind) || !reading.is_data(text, self.encoding) {
            return;
        }
        let first_bytes = reading.first_bytes(text, self.encoding);
        if FOREIGN_STARTS.iter().any(|start| first_bytes.starts_with(start)) {
            return;
        }
        let Some(doubt) = self.doubt(part, text, is_other_kind) else { return };
        self.chars += text.len();
        if self.pieces.len() < PIECES_FREE + self.chars / PIECE_CHARS {
            self.pieces.push(Piece { text, doubt });
        } else {
            self.is_shredded = true;
        }
    }

    /// Which component is the data of a part that goes on: the one behind the encoding, else where the document's
    /// first part has it, else the last.
    fn data_of(&self, components: &[&str]) -> Option<usize> {
        let is_filled = |at: &usize| components.get(*at).is_some_and(|text| !text.trim_ascii().is_empty());
        // "A" alone says nothing: it stands elsewhere for other things.
        let says = |(at, text): (usize, &&str)| match declared(text) {
            Some(DataEncoding::Plain) => at == 3,
            other => other.is_some() && components.len() > 1,
        };
        if let Some(before) = components.iter().enumerate().position(says) {
            return Some(before + 1).filter(is_filled);
        }
        if components.len() == self.place.1 {
            return Some(self.place.0).filter(is_filled);
        }
        (0..components.len()).rev().find(is_filled)
    }

    /// `None` when the data is not the document's.
    fn doubt(&self, part: Part<'_>, text: &str, is_other_kind: bool) -> Option<Doubt> {
        let (first, row) = (&self.first.row, &part.row);
        let is_same_segment = row.at == first.at && row.field == first.field;
        let is_akin = is_same_segment || row.is_akin(first);
        if self.encoding == DataEncoding::Plain {
            // Every text is such data.
            return is_akin.then_some(Doubt::None);
        }
        let is_long = || text.split_ascii_whitespace().any(|run| run.len() >= RUN_OF_DATA_MIN);
        if !row.is_same_field(first) || row.value_type != first.value_type && !is_long() {
            return None;
        }
        // Who splits evenly has pieces of one length but for the last.
        let is_even = text.len() == self.pieces[0].text.len();
        if part.value.len() == text.len() && !is_even && reads_like_words(text) {
            Some(Doubt::Great)
        } else if is_akin && !is_other_kind {
            Some(Doubt::None)
        } else {
            Some(Doubt::Slight)
        }
    }

    /// The document's bytes; `None` when the data does not decode.
    ///
    /// Of the ways to put it together the first that gives a whole PDF is taken: its first piece alone, with the
    /// pieces that are beyond doubt, then also with doubtful ones. Where none gives a whole PDF, as when its end is
    /// missing or lacks its mark, all that is data is taken.
    pub fn decode(&self, reading: &Reading<'_>) -> Option<Vec<u8>> {
        if let [only] = self.pieces.as_slice() {
            return reading.decode(&[only.text], self.encoding, false);
        }
        let mut best = None;
        let mut whole: Option<(Doubt, usize)> = None;
        for doubt in [Doubt::First, Doubt::None, Doubt::Slight, Doubt::Great] {
            if !self.pieces.iter().any(|piece| piece.doubt == doubt) {
                continue;
            }
            // Behind the last piece of a whole PDF may still come the line breaks it ends with.
            let is_taken = |&(at, piece): &(usize, &Piece<'_>)| match whole {
                None => piece.doubt <= doubt,
                Some((least, last)) => piece.doubt <= least || at > last && piece.doubt <= doubt,
            };
            let taken = || self.pieces.iter().enumerate().filter(is_taken);
            let texts: Vec<&str> = taken().map(|(_, piece)| piece.text).collect();
            let Some((bytes, is_whole)) = self.join(&texts, reading) else { continue };
            if is_whole {
                let last = taken().next_back().map_or(0, |(at, _)| at);
                whole.get_or_insert((doubt, last));
                best = Some(bytes);
            } else if whole.is_none() && doubt < Doubt::Great {
                best = Some(bytes);
            }
        }
        best.filter(|_| whole.is_some() || !self.is_shredded)
    }

    /// The bytes of these pieces, and whether they are a whole PDF: as pieces of one text, or as wholes that were
    /// encoded each by itself.
    fn join(&self, pieces: &[&str], reading: &Reading<'_>) -> Option<(Vec<u8>, bool)> {
        let decode = |each_whole: bool| {
            let bytes = reading.decode(pieces, self.encoding, each_whole)?;
            let end = End::of(&bytes);
            Some((bytes, end))
        };
        let as_one = decode(false);
        let as_wholes = match as_one {
            Some((_, End::Sound)) => None,
            _ if pieces.len() == 1 || self.encoding != DataEncoding::Base64 => None,
            _ => decode(true),
        };
        // Both can end as a PDF does: wholes without padding, cut back to a multiple of four digits by chance.
        let end = |way: &Option<(Vec<u8>, End)>| way.as_ref().map_or(End::Missing, |(_, end)| *end);
        let prefers_wholes = as_one.is_none() || end(&as_wholes) >= end(&as_one).max(End::Marked);
        let (bytes, end) = if prefers_wholes { as_wholes.or(as_one) } else { as_one }?;
        Some((bytes, end >= End::Marked))
    }
}

/// The components of a part, up to a bound.
fn components<'a>(value: &'a str, reading: &Reading<'_>) -> Vec<&'a str> {
    parts(value, reading.delimiters.component).take(COMPONENTS_MAX).collect()
}

/// The declared type and subtype: the second and third component, shifted by as much as the data is. Bare data declares
/// nothing.
fn kind<'a>(components: &[&'a str], data: usize) -> (&'a str, &'a str) {
    let at = |back: usize| data.checked_sub(back).map_or("", |at| components[at].trim());
    (at(3), at(2))
}

/// Declared to be what is no part of a PDF.
fn is_foreign((kind, subtype): (&str, &str)) -> bool {
    const FOREIGN: [&str; 18] = [
        "im",
        "image",
        "audio",
        "au",
        "video",
        "jpeg",
        "jpg",
        "png",
        "gif",
        "tiff",
        "tif",
        "bmp",
        "dicom",
        "html",
        "rtf",
        "xml",
        "x-hl7-cda-level-one",
        "pkcs7-signature",
    ];
    let is = |word: &str| {
        word.split(['/', ';']).any(|word| FOREIGN.iter().any(|foreign| foreign.eq_ignore_ascii_case(word)))
    };
    is(kind) || is(subtype)
}

/// Each word is of capitals, of small letters, capitalised, or a number or date: a person's, and hardly ever base64.
fn reads_like_words(text: &str) -> bool {
    text.split_ascii_whitespace().all(|word| {
        let letters = word.strip_prefix(|c: char| c.is_ascii_uppercase()).unwrap_or(word);
        let all = |is: fn(&u8) -> bool| word.bytes().all(|b| is(&b));
        word.len() <= WORD_MAX
            && (letters.bytes().all(|b| b.is_ascii_lowercase())
                || all(u8::is_ascii_uppercase)
                || all(|b| b.is_ascii_digit() || b"-+/".contains(b)))
    })
}
