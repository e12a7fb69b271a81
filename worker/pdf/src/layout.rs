//! Plain text as a paged document: A4, a fixed-width font that is embedded, and what an archive (PDF/A-2u) asks for.

mod colour;

use crate::embedded::{Lettering, name_of, packed};
use crate::metadata;
use crate::text::decimal;
use crate::truetype::Font;
use crate::writer;
use lopdf::{Dictionary, Object, ObjectId, StringFormat};
use std::collections::BTreeMap;
use unicode_normalization::UnicodeNormalization;

/// A4, in points.
const PAGE: (f64, f64) = (595.0, 842.0);
const MARGIN: f64 = 50.0;
/// A report written for a printer is 132 wide at most; what is wider is broken.
const COLUMNS: std::ops::RangeInclusive<usize> = 80..=132;
/// For 80 columns, and less for wider text.
const SIZE_MAX: f64 = 10.0;
const LEADING: f64 = 1.2;
const TAB_COLUMNS: usize = 8;

/// Lays out `text` under a `title` and a block of `lines`, both of which may be empty. Line ends of any kind end lines,
/// a form feed ends the page. Lines too long for the page go on below.
pub fn layout<N: AsRef<str>, V: AsRef<str>>(text: &str, title: &str, lines: &[(N, V)]) -> Vec<u8> {
    let lines: Vec<(&str, &str)> =
        lines.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    let mut head = String::new();
    if !title.is_empty() {
        head.push_str(&format!("{}\n\n", one_line(title)));
    }
    for (name, value) in &lines {
        head.push_str(&format!("{}: {}\n", one_line(name), one_line(value)));
    }
    if !lines.is_empty() {
        head.push('\n');
    }
    let rows = rows(&(head + text));
    let widest = rows.iter().flatten().map(|row| row.trim_end().chars().count()).max().unwrap_or(0);
    let columns = widest.clamp(*COLUMNS.start(), *COLUMNS.end());
    let mut lettering = Lettering::new(Font::mono(), false);
    let size = ((PAGE.0 - 2.0 * MARGIN) / (columns as f64 * lettering.width('0') / 1000.0)).min(SIZE_MAX);
    // The last line of a page is its number.
    let per_page = ((PAGE.1 - 2.0 * MARGIN) / (size * LEADING)) as usize - 2;
    let pages = paged(&rows, columns, per_page);

    let mut document = Document { objects: BTreeMap::new() };
    let tree = document.add(Object::Null);
    let contents: Vec<Vec<u8>> = (1..)
        .zip(&pages)
        .map(|(number, page)| {
            content(&mut lettering, page, size, per_page, &format!("{number}/{}", pages.len()))
        })
        .collect();
    let font = lettering.embed(&mut |object| document.add(object));
    let fonts = Dictionary::from_iter([("F1", Object::Reference(font))]);
    let resources = Dictionary::from_iter([("Font", Object::Dictionary(fonts))]);
    let resources = document.add(Object::Dictionary(resources));
    let kids: Vec<Object> = contents
        .iter()
        .map(|content| {
            let content = document.add(packed([], content));
            let page = Dictionary::from_iter([
                ("Type", name_of("Page")),
                ("Parent", Object::Reference(tree)),
                (
                    "MediaBox",
                    Object::Array([0, 0, PAGE.0 as i64, PAGE.1 as i64].map(Object::Integer).to_vec()),
                ),
                ("Resources", Object::Reference(resources)),
                ("Contents", Object::Reference(content)),
            ]);
            Object::Reference(document.add(Object::Dictionary(page)))
        })
        .collect();
    let nodes = Dictionary::from_iter([
        ("Type", name_of("Pages")),
        ("Count", Object::Integer(kids.len() as i64)),
        ("Kids", Object::Array(kids)),
    ]);
    document.objects.insert(tree, Object::Dictionary(nodes));
    document.finish(tree, &one_line(title), &lines)
}

struct Document {
    objects: BTreeMap<ObjectId, Object>,
}

impl Document {
    fn add(&mut self, object: Object) -> ObjectId {
        let id = (self.objects.len() as u32 + 1, 0);
        self.objects.insert(id, object);
        id
    }

    fn finish(mut self, tree: ObjectId, title: &str, lines: &[(&str, &str)]) -> Vec<u8> {
        let profile = self.add(packed([("N", Object::Integer(3))], &colour::srgb()));
        let literal = |text: &str| Object::String(text.as_bytes().to_vec(), StringFormat::Literal);
        let intent = Dictionary::from_iter([
            ("Type", name_of("OutputIntent")),
            ("S", name_of("GTS_PDFA1")),
            ("OutputConditionIdentifier", literal("sRGB")),
            ("Info", literal("sRGB")),
            ("DestOutputProfile", Object::Reference(profile)),
        ]);
        let dict = Dictionary::from_iter([("Type", name_of("Metadata")), ("Subtype", name_of("XML"))]);
        let content = xmp(title, lines);
        let metadata = self.add(Object::Stream(lopdf::Stream {
            dict,
            content,
            allows_compression: false,
            start_position: None,
        }));
        let mut info = Dictionary::new();
        if !title.is_empty() {
            info.set("Title", metadata::text_string(title));
        }
        metadata::into_info(&mut info, lines);
        let info = self.add(Object::Dictionary(info));
        let root = self.add(Object::Dictionary(Dictionary::from_iter([
            ("Type", name_of("Catalog")),
            ("Pages", Object::Reference(tree)),
            ("Metadata", Object::Reference(metadata)),
            ("OutputIntents", Object::Array(vec![Object::Dictionary(intent)])),
        ])));
        let trailer =
            Dictionary::from_iter([("Root", Object::Reference(root)), ("Info", Object::Reference(info))]);
        writer::whole(b"1.7", &self.objects, &trailer)
    }
}

fn xmp(title: &str, lines: &[(&str, &str)]) -> Vec<u8> {
    let mut description = String::from(
        "<rdf:Description rdf:about=\"\" xmlns:pdfaid=\"http://www.aiim.org/pdfa/ns/id/\" \
         xmlns:dc=\"http://purl.org/dc/elements/1.1/\">\n\
         <pdfaid:part>2</pdfaid:part>\n<pdfaid:conformance>U</pdfaid:conformance>\n",
    );
    if !title.is_empty() {
        let title = metadata::escaped(title);
        description.push_str(&format!(
            "<dc:title><rdf:Alt><rdf:li xml:lang=\"x-default\">{title}</rdf:li></rdf:Alt></dc:title>\n"
        ));
    }
    description.push_str("</rdf:Description>\n");
    let packet = metadata::packet(&description);
    if lines.is_empty() { packet } else { metadata::into_xmp(&packet, lines).unwrap_or(packet) }
}

/// The lines of the text, `None` where a page ends.
fn rows(text: &str) -> Vec<Option<String>> {
    let text = text.replace("\r\n", "\n").replace(['\r', '\u{85}', '\u{2028}', '\u{2029}'], "\n");
    let mut rows = Vec::new();
    for (index, page) in text.split('\u{C}').enumerate() {
        if index > 0 {
            rows.push(None);
        }
        rows.extend(page.trim_end_matches('\n').split('\n').map(|row| Some(columns_of(row))));
    }
    rows
}

/// A line with its tabs as blanks, and without what draws nothing.
fn columns_of(row: &str) -> String {
    let mut columns = String::with_capacity(row.len());
    let mut count = 0;
    for letter in row.nfc() {
        match letter {
            '\t' => {
                let blanks = TAB_COLUMNS - count % TAB_COLUMNS;
                columns.extend(std::iter::repeat_n(' ', blanks));
                count += blanks;
            }
            letter if letter.is_control() || crate::text::is_ignorable(letter) => {}
            letter => {
                columns.push(if letter.is_whitespace() { ' ' } else { letter });
                count += 1;
            }
        }
    }
    columns
}

/// Lines broken to the width and gathered into pages, one at least.
fn paged(rows: &[Option<String>], columns: usize, per_page: usize) -> Vec<Vec<String>> {
    let mut pages = vec![Vec::new()];
    for row in rows {
        let Some(row) = row else {
            pages.push(Vec::new());
            continue;
        };
        for line in broken(row.trim_end(), columns) {
            if pages.last().is_none_or(|page: &Vec<String>| page.len() >= per_page) {
                pages.push(Vec::new());
            }
            pages.last_mut().expect("there is one at least").push(line);
        }
    }
    pages
}

/// A line in parts of `columns` at most, broken at blanks where there are some.
fn broken(row: &str, columns: usize) -> Vec<String> {
    let letters: Vec<char> = row.chars().collect();
    let mut lines = Vec::new();
    let mut rest = &letters[..];
    while rest.len() > columns {
        let blank = rest[..=columns].iter().rposition(|&letter| letter == ' ').filter(|&at| at > columns / 2);
        let (line, next) = match blank {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => rest.split_at(columns),
        };
        lines.push(line.iter().collect());
        rest = next;
    }
    lines.push(rest.iter().collect());
    lines
}

fn content(lettering: &mut Lettering, page: &[String], size: f64, per_page: usize, number: &str) -> Vec<u8> {
    let leading = size * LEADING;
    let mut out = format!(
        "0 g\nBT\n/F1 {} Tf\n{} TL\n1 0 0 1 {} {} Tm\n",
        decimal(size),
        decimal(leading),
        decimal(MARGIN),
        decimal(PAGE.1 - MARGIN - size)
    );
    let mut show = |out: &mut String, line: &str| {
        if !line.is_empty() {
            let codes: String =
                line.chars().map(|letter| format!("{:04X}", lettering.code(letter))).collect();
            out.push_str(&format!("<{codes}> Tj\n"));
        }
    };
    for line in page {
        show(&mut out, line);
        out.push_str("T*\n");
    }
    let last = PAGE.1 - MARGIN - size - leading * (per_page + 1) as f64;
    out.push_str(&format!("1 0 0 1 {} {} Tm\n", decimal(MARGIN), decimal(last)));
    show(&mut out, number);
    out.push_str("ET\n");
    out.into_bytes()
}

fn one_line(text: &str) -> String {
    text.split(|letter: char| letter.is_control() || letter.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Look, Pages, stamp};

    const NONE: &[(&str, &str)] = &[];

    #[test]
    fn a_long_line_is_broken_at_a_blank_and_a_word_longer_than_the_page_within() {
        assert_eq!(broken("aaa bbb ccc", 7), ["aaa bbb", "ccc"]);
        assert_eq!(broken("aaaaaaaaaa", 4), ["aaaa", "aaaa", "aa"]);
        assert_eq!(broken("", 4), [""]);
    }

    #[test]
    fn tabs_line_ends_and_form_feeds_are_laid_out() {
        assert_eq!(columns_of("a\tb"), "a       b");
        let rows = rows("a\r\nb\rc\u{C}d\n");
        assert_eq!(rows, [Some("a".into()), Some("b".into()), Some("c".into()), None, Some("d".into())]);
        assert_eq!(paged(&rows, 80, 2), [vec!["a", "b"], vec!["c"], vec!["d"]]);
    }

    #[test]
    fn what_is_laid_out_can_be_stamped_and_is_the_same_each_time() {
        let text = "Befund: Łódź 山 ┌─┐\n".repeat(300);
        let document = layout(&text, "Röntgen", NONE);
        assert_eq!(document, layout(&text, "Röntgen", NONE));
        let stamped = stamp(&document, &[("a", "b")], Look::Visible, Pages::All, &Limits::default()).unwrap();
        assert!(stamped.bytes.starts_with(&document));
    }

    #[test]
    fn no_text_is_one_page() {
        for text in ["", "\n", "\u{C}", "\0"] {
            assert!(layout(text, "", NONE).starts_with(b"%PDF-1.7"));
        }
    }
}
