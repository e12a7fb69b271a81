//! A shipped font put into a document: the glyphs that are used, their widths, and what letters they stand for.

use crate::truetype::Font;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use lopdf::{Dictionary, Object, ObjectId, Stream, StringFormat};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

/// Drawn for a letter the font lacks. The code behind it still stands for the letter, so that search finds it.
pub(crate) const STAND_IN: char = '□';

/// Letters gathered for one document, each with the code that is written for it.
pub(crate) struct Lettering {
    pub(crate) font: &'static Font,
    /// Every letter is drawn as the stand-in: for text nobody sees, whose font then holds one glyph.
    blank: bool,
    codes: BTreeMap<char, u16>,
}

impl Lettering {
    /// None gathered yet.
    pub(crate) fn new(font: &'static Font, blank: bool) -> Lettering {
        Lettering { font, blank, codes: BTreeMap::new() }
    }

    /// The code of a letter; 0, which draws nothing known, once 65,535 others have theirs.
    pub(crate) fn code(&mut self, letter: char) -> u16 {
        let next = u16::try_from(self.codes.len() + 1).unwrap_or(0);
        *self.codes.entry(letter).or_insert(next)
    }

    /// How far a letter advances, in thousandths of the size.
    pub(crate) fn width(&self, letter: char) -> f64 {
        self.font.width(self.glyph(letter))
    }

    /// Whether no letter was gathered.
    pub(crate) fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    fn glyph(&self, letter: char) -> u16 {
        let stand_in = || self.font.glyph(STAND_IN).expect("the shipped fonts have the stand-in");
        if self.blank { stand_in() } else { self.font.glyph(letter).unwrap_or_else(stand_in) }
    }

    /// The font's objects; `add` gives each a number.
    pub(crate) fn embed(&self, add: &mut dyn FnMut(Object) -> ObjectId) -> ObjectId {
        let mut remapper = subsetter::GlyphRemapper::new();
        let mut by_code: Vec<(u16, char)> =
            self.codes.iter().map(|(&letter, &code)| (code, letter)).collect();
        by_code.sort_unstable();
        let glyphs: Vec<u16> =
            by_code.iter().map(|&(_, letter)| remapper.remap(self.glyph(letter))).collect();
        let program = subsetter::subset(self.font.bytes, 0, &remapper)
            .expect("the shipped font is sound, and its glyphs its own");
        let plain = program.len();
        let program = add(packed([("Length1", Object::Integer(plain as i64))], &program));

        let name = Object::Name(format!("HLSTMP+{}", self.font.name).into_bytes());
        let number = Object::Integer;
        // Every code up to the last, code 0 for the glyph that stands for none.
        let mut held = vec![0u8; self.codes.len() / 8 + 1];
        (0..=self.codes.len()).for_each(|code| held[code / 8] |= 0x80 >> (code % 8));
        let held = add(packed([], &held));
        let descriptor = add(Object::Dictionary(Dictionary::from_iter([
            ("Type", name_of("FontDescriptor")),
            ("FontName", name.clone()),
            // Symbolic, and of fixed width where it is.
            ("Flags", number(4 + i64::from(self.font.fixed_width))),
            ("FontBBox", Object::Array(self.font.bounds.map(number).to_vec())),
            ("ItalicAngle", number(0)),
            ("Ascent", number(self.font.ascent)),
            ("Descent", number(self.font.descent)),
            ("CapHeight", number(729)),
            ("StemV", number(80)),
            ("FontFile2", Object::Reference(program)),
            ("CIDSet", Object::Reference(held)),
        ])));

        let mut to_glyph = vec![0, 0];
        glyphs.iter().for_each(|glyph| to_glyph.extend(glyph.to_be_bytes()));
        let to_glyph = add(packed([], &to_glyph));
        let widths = by_code.iter().map(|&(_, letter)| Object::Real(self.width(letter) as f32)).collect();
        let descendant = add(Object::Dictionary(Dictionary::from_iter([
            ("Type", name_of("Font")),
            ("Subtype", name_of("CIDFontType2")),
            ("BaseFont", name.clone()),
            (
                "CIDSystemInfo",
                Object::Dictionary(Dictionary::from_iter([
                    ("Registry", text("Adobe")),
                    ("Ordering", text("Identity")),
                    ("Supplement", number(0)),
                ])),
            ),
            ("FontDescriptor", Object::Reference(descriptor)),
            ("W", Object::Array(vec![number(1), Object::Array(widths)])),
            ("CIDToGIDMap", Object::Reference(to_glyph)),
        ])));

        let to_unicode = add(packed([], to_unicode(&by_code).as_bytes()));
        add(Object::Dictionary(Dictionary::from_iter([
            ("Type", name_of("Font")),
            ("Subtype", name_of("Type0")),
            ("BaseFont", name),
            ("Encoding", name_of("Identity-H")),
            ("DescendantFonts", Object::Array(vec![Object::Reference(descendant)])),
            ("ToUnicode", Object::Reference(to_unicode)),
        ])))
    }
}

/// Shorter contents stay as they are: to begin to compress costs as much time as to stamp a report does otherwise.
const PACKED_MIN: usize = 2048;

/// A stream, compressed where that is worth it.
pub(crate) fn packed<const N: usize>(entries: [(&str, Object); N], content: &[u8]) -> Object {
    if content.len() < PACKED_MIN {
        let dict = Dictionary::from_iter(entries);
        return Object::Stream(Stream {
            dict,
            content: content.to_vec(),
            allows_compression: false,
            start_position: None,
        });
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed =
        encoder.write_all(content).and_then(|()| encoder.finish()).expect("memory takes every write");
    let mut dict = Dictionary::from_iter(entries);
    dict.set("Filter", name_of("FlateDecode"));
    Object::Stream(Stream { dict, content: compressed, allows_compression: false, start_position: None })
}

/// A name.
pub(crate) fn name_of(name: &str) -> Object {
    Object::Name(name.as_bytes().to_vec())
}

fn text(text: &str) -> Object {
    Object::String(text.as_bytes().to_vec(), StringFormat::Literal)
}

fn to_unicode(by_code: &[(u16, char)]) -> String {
    let mut map = String::from(
        "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n\
         /CIDSystemInfo <</Registry (Adobe) /Ordering (UCS) /Supplement 0>> def\n\
         /CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n\
         1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n",
    );
    for chunk in by_code.chunks(100) {
        let _ = writeln!(map, "{} beginbfchar", chunk.len());
        for &(code, letter) in chunk {
            let _ = write!(map, "<{code:04X}> <");
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(map, "{unit:04X}");
            }
            map.push_str(">\n");
        }
        map.push_str("endbfchar\n");
    }
    map.push_str("endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n");
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_keeps_its_code_and_one_the_font_lacks_has_its_own() {
        let mut lettering = Lettering::new(Font::sans(), false);
        let codes: Vec<u16> = "Ж山Ж川".chars().map(|letter| lettering.code(letter)).collect();
        assert_eq!(codes, [1, 2, 1, 3]);
        assert_eq!(lettering.width('山'), lettering.width(STAND_IN));
        let map = to_unicode(&[(1, 'Ж'), (2, '𝄞')]);
        assert!(map.contains("<0001> <0416>") && map.contains("<0002> <D834DD1E>"));
    }

    #[test]
    fn a_font_for_what_nobody_sees_is_small() {
        let size = |blank| {
            let mut lettering = Lettering::new(Font::sans(), blank);
            "Жук山川Ελλάδα".chars().for_each(|letter| _ = lettering.code(letter));
            let mut bytes = 0;
            lettering.embed(&mut |object| {
                bytes += object.as_stream().map_or(0, |stream| stream.content.len());
                (1, 0)
            });
            bytes
        };
        assert!(size(true) < 5_000, "{}", size(true));
        assert!(size(false) < 20_000, "{}", size(false));
    }
}
