//! Any PDF in any layout comes back byte for byte; nothing a sender writes is a danger.

use super::{EVERY, JPEG, SEARCH, base64, channel, found, hex, plain};
use crate::step::attachment::find;
use config::Channel;
use hl7::message::Message;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::fmt::Write as _;
use std::io::Write as _;

/// Pieces are cut no shorter: a word may be as long as a shorter one.
const PIECE_MIN: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Written {
    Base64 { padded: bool, for_urls: bool },
    Hex { small: bool },
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    No,
    Repetitions,
    Rows,
    NumberedRows,
}

#[derive(Clone, Debug)]
struct Layout {
    body: Vec<u8>,
    /// `%%EOF` and what stands behind it; `None` for a PDF that lacks its end.
    end: Option<&'static str>,
    written: Written,
    before: &'static str,
    blank: &'static str,
    split: Split,
    /// Every piece is encoded by itself.
    each_whole: bool,
    cuts: Vec<Index>,
    value_type: &'static str,
    between: Vec<&'static str>,
}

const ENDS: [Option<&str>; 5] =
    [None, Some("%%EOF"), Some("%%EOF\n"), Some("%%EOF\r\n\0"), Some("%%EOF\0junk")];
const BEFORE: [&str; 7] = [
    "^application^pdf^Base64^",
    "^AP^PDF^Base64^",
    "^TEXT^^Base64^",
    "PDF^TEXT^^Base64^",
    "^^^^",
    "",
    "HIS^TX^PDF^^",
];
const BLANKS: [&str; 6] = ["", "", " ", "\\.br\\", "\\X0D0A\\", "\\X0D\\\\X0A\\"];
const BETWEEN: [&str; 6] = [
    "OBX|9|ED|R||\r",
    "OBX|9|TX|R||The findings are normal.\r",
    "OBX|9|NM|R||12\r",
    "OBX|9|TX|R||\r",
    "NTE|1||note\r",
    "thumbnail",
];

fn layouts() -> impl Strategy<Value = Layout> {
    let written = prop_oneof![
        3 => (any::<bool>(), any::<bool>())
            .prop_map(|(padded, for_urls)| Written::Base64 { padded, for_urls }),
        1 => any::<bool>().prop_map(|small| Written::Hex { small }),
        1 => Just(Written::Plain),
    ];
    let split = select(&[Split::No, Split::Repetitions, Split::Rows, Split::NumberedRows][..]);
    let content = (prop::collection::vec(any::<u8>(), 0..3000), select(&ENDS[..]), written);
    let form = (select(&BEFORE[..]), select(&BLANKS[..]), select(&["ED", "ED", "TX", ""][..]));
    let cut = (split, any::<bool>(), prop::collection::vec(any::<Index>(), 1..5));
    let between = prop::collection::vec(select(&BETWEEN[..]), 0..3);
    (content, form, cut, between).prop_map(|((body, end, written), form, cut, between)| {
        let (before, blank, value_type) = form;
        let (split, each_whole, cuts) = cut;
        let mut layout =
            Layout { body, end, written, before, blank, split, each_whole, cuts, value_type, between };
        layout.make_plausible();
        layout
    })
}

impl Layout {
    /// Takes back what no reader could tell apart.
    fn make_plausible(&mut self) {
        if self.written == Written::Plain {
            // Nothing tells a wrapped line of text from two, nor a row of text from a piece of text.
            self.blank = "";
            self.between.clear();
            if self.split == Split::NumberedRows {
                self.split = Split::Rows;
            }
        }
        let is_padded = matches!(self.written, Written::Base64 { padded: true, .. });
        let has_end = matches!(self.end, Some(end) if !end.ends_with("junk"));
        if !is_padded && !has_end {
            // Without padding only the end of the document tells wholes from pieces of one text.
            self.each_whole = false;
        }
    }

    fn pdf(&self) -> Vec<u8> {
        let mut pdf = [b"%PDF-1.7\nthirty bytes stand in the first piece", self.body.as_slice()].concat();
        if let Some(end) = self.end {
            let table = pdf.len();
            write!(pdf, "xref\n0 0\ntrailer\n<<>>\nstartxref\n{table}\n{end}").unwrap();
        }
        pdf
    }

    fn encode(&self, bytes: &[u8]) -> String {
        match self.written {
            Written::Base64 { padded, for_urls } => {
                let data = base64(bytes);
                let data = if padded { &data } else { data.trim_end_matches('=') };
                if for_urls { data.replace('+', "-").replace('/', "_") } else { data.to_owned() }
            }
            Written::Hex { small: true } => hex(bytes).to_lowercase(),
            Written::Hex { small: false } => hex(bytes),
            Written::Plain => plain(bytes),
        }
    }

    fn pieces(&self) -> Vec<String> {
        let pdf = self.pdf();
        let cuts = |length: usize| -> Vec<usize> {
            let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut.index(length + 1)).collect();
            cuts.sort_unstable();
            let mut last = 0;
            cuts.retain(|&cut| {
                let is_far = cut >= last + PIECE_MIN && length >= cut + PIECE_MIN;
                last = if is_far { cut } else { last };
                is_far
            });
            cuts.push(length);
            cuts
        };
        let pieces: Vec<String> = if self.split == Split::No {
            vec![self.encode(&pdf)]
        } else if self.each_whole || self.written == Written::Plain {
            between(&cuts(pdf.len())).map(|(from, to)| self.encode(&pdf[from..to])).collect()
        } else {
            let data = self.encode(&pdf);
            between(&cuts(data.len())).map(|(from, to)| data[from..to].to_owned()).collect()
        };
        pieces.iter().map(|piece| self.wrapped(piece)).collect()
    }

    fn wrapped(&self, data: &str) -> String {
        if self.blank.is_empty() {
            return data.to_owned();
        }
        let lines: Vec<&str> =
            (0..data.len()).step_by(76).map(|at| &data[at..data.len().min(at + 76)]).collect();
        lines.join(self.blank)
    }

    fn segments(&self) -> String {
        let pieces: Vec<String> =
            self.pieces().iter().map(|piece| format!("{}{piece}", self.before)).collect();
        let (value_type, mut rows) = (self.value_type, String::new());
        match self.split {
            Split::No | Split::Repetitions => {
                write!(rows, "OBX|1|{value_type}|R^REPORT||{}||||||F\r", pieces.join("~")).unwrap();
            }
            Split::Rows | Split::NumberedRows => {
                for (n, piece) in pieces.iter().enumerate() {
                    let sub_id = if self.split == Split::NumberedRows { n + 1 } else { 1 };
                    write!(rows, "OBX|{n}|{value_type}|R^REPORT|{sub_id}|{piece}||||||F\r").unwrap();
                    rows.extend(self.between.iter().map(|row| noise(row)));
                }
            }
        }
        rows
    }
}

fn noise(row: &str) -> String {
    if row == "thumbnail" {
        format!("OBX|9|ED|R||^image^jpeg^Base64^{}\r", base64(JPEG))
    } else {
        row.to_owned()
    }
}

fn between(cuts: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    std::iter::once(0).chain(cuts.iter().copied()).zip(cuts.iter().copied())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_pdf_in_any_layout_comes_back_byte_for_byte(
        layouts in prop::collection::vec(layouts(), 1..4),
        before in prop::collection::vec(select(&BETWEEN[..]), 0..3),
    ) {
        let before: String = before.iter().map(|row| noise(row)).collect();
        let segments: String = layouts.iter().map(Layout::segments).collect();
        let segments = before + &segments;
        let pdfs: Vec<Vec<u8>> = layouts.iter().map(Layout::pdf).collect();
        prop_assert!(found(EVERY, &segments).as_ref() == Ok(&pdfs), "{segments}");
        prop_assert!(found(SEARCH, &segments).as_deref() == Ok(&pdfs[..1]), "{segments}");
    }

    #[test]
    fn no_segments_make_it_panic(
        rows in prop::collection::vec(
            prop_oneof![
                "(OBX|ZAB|NTE)\\|1\\|(ED|TX|FT||NM)\\|R\\|\\|([\\^~&\\\\ ]|\\.br|X0D|JVBERi0|255044462d|%PDF-|Base64|Hex|A|=|==|[A-Za-z0-9+/_-]{1,9}|é|\\PC){0,40}",
                "\\PC{0,60}",
            ],
            0..8,
        ),
        msh in select(&["MSH|^~\\&|", "MSH|^~|", "MSH|^|", "MSH||", "MSH^~|\\&^"][..]),
    ) {
        let text = format!("{msh}A\r{}\r", rows.join("\r"));
        let message = Message::parse(&text).unwrap();
        for lines in [SEARCH, EVERY, "attachment_field: OBX.1.5", "attachment_field: ZAB.*.5[*].5"] {
            for format in [config::AttachmentFormat::Pdf, config::AttachmentFormat::Text] {
                let mut channel = Channel::clone(&channel(lines));
                channel.attachment_format = format;
                if let Ok(found) = find(&message, &channel) {
                    let bytes: usize = found.iter().map(|attachment| attachment.bytes.len()).sum();
                    prop_assert!(bytes <= 2 * text.len());
                }
            }
        }
    }
}
