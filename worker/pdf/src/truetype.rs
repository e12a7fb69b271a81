//! The shipped fonts: which glyph a letter has and how wide it is.
//!
//! Reads only the tables that say so, and only of the two fonts in `fonts/`, which are known to be sound.

use std::sync::OnceLock;

static SANS: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");
static MONO: &[u8] = include_bytes!("../fonts/DejaVuSansMono.ttf");

/// A shipped font.
pub(crate) struct Font {
    pub(crate) bytes: &'static [u8],
    /// As PDF names it.
    pub(crate) name: &'static str,
    units_per_em: u16,
    /// Of the line, in thousandths of the size.
    pub(crate) ascent: i64,
    pub(crate) descent: i64,
    pub(crate) bounds: [i64; 4],
    pub(crate) fixed_width: bool,
    cmap: &'static [u8],
    hmtx: &'static [u8],
    metrics: u16,
}

impl Font {
    /// DejaVu Sans: Latin, Greek, Cyrillic and more.
    pub(crate) fn sans() -> &'static Font {
        static FONT: OnceLock<Font> = OnceLock::new();
        FONT.get_or_init(|| Font::read(SANS, "DejaVuSans", false).expect("the shipped font is sound"))
    }

    /// DejaVu Sans Mono, every letter as wide as the next.
    pub(crate) fn mono() -> &'static Font {
        static FONT: OnceLock<Font> = OnceLock::new();
        FONT.get_or_init(|| Font::read(MONO, "DejaVuSansMono", true).expect("the shipped font is sound"))
    }

    fn read(bytes: &'static [u8], name: &'static str, fixed_width: bool) -> Option<Font> {
        let head = table(bytes, b"head")?;
        let hhea = table(bytes, b"hhea")?;
        let units_per_em = u16_at(head, 18)?;
        let thousandths =
            |at: &'static [u8], offset| Some(i64::from(i16_at(at, offset)?) * 1000 / i64::from(units_per_em));
        Some(Font {
            bytes,
            name,
            units_per_em,
            ascent: thousandths(hhea, 4)?,
            descent: thousandths(hhea, 6)?,
            bounds: [
                thousandths(head, 36)?,
                thousandths(head, 38)?,
                thousandths(head, 40)?,
                thousandths(head, 42)?,
            ],
            fixed_width,
            cmap: segmented(table(bytes, b"cmap")?)?,
            hmtx: table(bytes, b"hmtx")?,
            metrics: u16_at(hhea, 34)?,
        })
    }

    /// The glyph of a letter, if the font has one.
    pub(crate) fn glyph(&self, letter: char) -> Option<u16> {
        let groups = u32_at(self.cmap, 12)?;
        let (mut low, mut high) = (0, groups);
        while low < high {
            let middle = low + (high - low) / 2;
            let at = 16 + middle as usize * 12;
            let (first, last) = (u32_at(self.cmap, at)?, u32_at(self.cmap, at + 4)?);
            if u32::from(letter) < first {
                high = middle;
            } else if u32::from(letter) > last {
                low = middle + 1;
            } else {
                let glyph = u32_at(self.cmap, at + 8)? + (u32::from(letter) - first);
                return u16::try_from(glyph).ok().filter(|&glyph| glyph != 0);
            }
        }
        None
    }

    /// How far a glyph advances, in thousandths of the size.
    pub(crate) fn width(&self, glyph: u16) -> f64 {
        let index = glyph.min(self.metrics.saturating_sub(1));
        let units = u16_at(self.hmtx, usize::from(index) * 4).unwrap_or(0);
        f64::from(units) * 1000.0 / f64::from(self.units_per_em)
    }
}

fn table(bytes: &'static [u8], tag: &[u8; 4]) -> Option<&'static [u8]> {
    let count = u16_at(bytes, 4)?;
    let record = (0..count)
        .map(|index| 12 + usize::from(index) * 16)
        .find(|&at| bytes.get(at..at + 4) == Some(tag))?;
    let (offset, length) = (u32_at(bytes, record + 8)? as usize, u32_at(bytes, record + 12)? as usize);
    bytes.get(offset..offset + length)
}

/// The subtable of format 12, which covers all of Unicode.
fn segmented(cmap: &'static [u8]) -> Option<&'static [u8]> {
    let count = u16_at(cmap, 2)?;
    (0..usize::from(count)).find_map(|index| {
        let subtable = cmap.get(u32_at(cmap, 4 + index * 8 + 4)? as usize..)?;
        (u16_at(subtable, 0)? == 12).then_some(subtable)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_fonts_have_latin_greek_and_cyrillic_and_the_box_that_stands_for_the_rest() {
        for font in [Font::sans(), Font::mono()] {
            for letter in "AzßŁőŞΩλЖя€□".chars() {
                assert!(font.glyph(letter).is_some(), "{} {letter}", font.name);
            }
            assert_eq!(font.glyph('山'), None);
        }
        assert_eq!(Font::sans().width(Font::sans().glyph('A').unwrap()).round(), 684.0);
        let mono = Font::mono();
        assert!("iW□Ж".chars().all(|c| mono.width(mono.glyph(c).unwrap()).round() == 602.0));
    }
}
