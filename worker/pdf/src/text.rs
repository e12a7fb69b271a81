//! The lines of a stamp: letters to glyphs, lines broken where the page ends, and all of it within the page.

use crate::embedded::Lettering;
use crate::truetype::Font;
use crate::win_ansi;
use crate::writer;
use std::fmt::Write as _;
use unicode_normalization::UnicodeNormalization;

/// On paper, where the page is large enough.
const SIZE_POINTS: f64 = 7.0;
/// From the edges of the page, on paper.
const MARGIN_POINTS: f64 = 12.0;
/// Of a small page's shorter side, where the margin would take more.
const MARGIN_SHARE: f64 = 0.05;
/// From line to line, in sizes.
const LEADING: f64 = 1.2;
/// Below the first line's top, in sizes: the tallest letter with its accent.
const ASCENT: f64 = 0.95;
/// A line that goes on is set in by this many sizes.
const INDENT: f64 = 1.0;
/// What does not fit is set smaller, step by step, rather than outside the page.
const SMALLER: f64 = 0.93;
/// Steps from 7 points to 0.03, which fills a page with what no eye reads and search still finds.
const STEPS_MAX: u32 = 75;

/// The text of a stamp, its letters sorted by font.
pub(crate) struct Text {
    paragraphs: Vec<Vec<Word>>,
    /// The font of the letters Helvetica lacks.
    pub(crate) lettering: Lettering,
    /// Whether Helvetica is used.
    pub(crate) standard: bool,
    /// Whether letters were cut off.
    pub(crate) cut: bool,
}

/// Letters between two spaces, all of one font.
struct Word {
    glyphs: Vec<Glyph>,
    embedded: bool,
    width: f64,
}

#[derive(Clone, Copy)]
struct Glyph {
    code: u16,
    /// In thousandths of the size.
    width: f64,
}

/// Lines on a page.
pub(crate) struct Setting {
    size: f64,
    margin: f64,
    lines: Vec<Line>,
    /// Whether lines had to be left out.
    pub(crate) cut: bool,
}

struct Line {
    indent: f64,
    parts: Vec<Part>,
}

/// Glyphs of one font, one after the other.
struct Part {
    embedded: bool,
    codes: Vec<u16>,
}

impl Text {
    /// `name: value` for each line. `embed` puts every letter in the embedded font, as archives want it; `blank` is for
    /// text that is not drawn.
    pub(crate) fn new(lines: &[(&str, &str)], letters_max: usize, embed: bool, blank: bool) -> Text {
        let mut text = Text {
            paragraphs: Vec::new(),
            lettering: Lettering::new(Font::sans(), blank),
            standard: false,
            cut: false,
        };
        let mut left = letters_max;
        for (name, value) in lines {
            let line = format!("{name}: {value}");
            for paragraph in line.split(['\r', '\n', '\u{B}', '\u{C}', '\u{85}', '\u{2028}', '\u{2029}']) {
                let letters: String =
                    paragraph.nfc().filter(|&letter| !is_ignorable(letter)).take(left).collect();
                let count = letters.chars().count();
                left -= count;
                text.cut |= left == 0;
                let words: Vec<Word> = displayed_order(&letters)
                    .split(|&letter| is_blank(letter))
                    .filter(|word| !word.is_empty())
                    .map(|word| text.word(word, embed))
                    .collect();
                if !words.is_empty() {
                    text.paragraphs.push(words);
                }
            }
        }
        // The space between words belongs to the font of the word before it.
        if text.paragraphs.iter().flatten().any(|word| word.embedded) {
            text.lettering.code(' ');
        }
        text
    }

    fn word(&mut self, letters: &[char], embed: bool) -> Word {
        let embedded = embed || letters.iter().any(|&letter| win_ansi::code(letter).is_none());
        self.standard |= !embedded;
        let glyph = |&letter: &char| match win_ansi::code(letter) {
            Some(code) if !embedded => Glyph { code: u16::from(code), width: win_ansi::width(code) },
            _ => Glyph { code: self.lettering.code(letter), width: self.lettering.width(letter) },
        };
        let glyphs: Vec<Glyph> = letters.iter().map(glyph).collect();
        let width = glyphs.iter().map(|glyph| glyph.width).sum();
        Word { glyphs, embedded, width }
    }

    /// Sets the text on a page of this size in units of `unit` points.
    pub(crate) fn set(&mut self, width: f64, height: f64, unit: f64) -> Setting {
        let margin = (MARGIN_POINTS / unit).min(width.min(height) * MARGIN_SHARE);
        let (across, down) = (width - 2.0 * margin, height - 2.0 * margin);
        let mut size = SIZE_POINTS / unit;
        for step in 0..=STEPS_MAX {
            let rows = ((down / size - ASCENT - 0.3) / LEADING).floor() + 1.0;
            let rows = if rows.is_finite() && rows > 0.0 { rows as usize } else { 0 };
            // Lines of under a dozen letters are read by nobody: smaller is better, as long as that is.
            let narrow = across < size * 6.0 && step < STEPS_MAX / 2;
            let last = step == STEPS_MAX;
            if rows > 0 && !narrow || last {
                let mut lines = self.lines(across / size * 1000.0, rows.saturating_add(1));
                let fits = lines.len() <= rows;
                if fits || last {
                    lines.truncate(rows);
                    return Setting { size, margin, lines, cut: !fits };
                }
            }
            size *= SMALLER;
        }
        Setting { size, margin, lines: Vec::new(), cut: true }
    }

    /// Lines no wider than `across`, in thousandths of the size; no more than `rows_max` are made.
    fn lines(&mut self, across: f64, rows_max: usize) -> Vec<Line> {
        let space =
            [win_ansi::width(b' '), if self.lettering.is_empty() { 0.0 } else { self.lettering.width(' ') }];
        let space_code = if self.lettering.is_empty() { 0 } else { self.lettering.code(' ') };
        let mut lines = Vec::new();
        for words in &self.paragraphs {
            let mut line = Line { indent: 0.0, parts: Vec::new() };
            let mut used = 0.0;
            let go_on = |line: &mut Line, lines: &mut Vec<Line>| {
                let indent = if across > 20_000.0 { INDENT } else { 0.0 };
                lines.push(std::mem::replace(line, Line { indent, parts: Vec::new() }));
                indent * 1000.0
            };
            let mut before: Option<bool> = None;
            for word in words {
                if let Some(embedded) = before {
                    let wide = space[usize::from(embedded)];
                    if used + wide + word.width > across {
                        used = go_on(&mut line, &mut lines);
                    } else {
                        line.push(embedded, if embedded { space_code } else { u16::from(b' ') });
                        used += wide;
                    }
                }
                for glyph in &word.glyphs {
                    if used + glyph.width > across && !line.parts.is_empty() {
                        used = go_on(&mut line, &mut lines);
                    }
                    if lines.len() >= rows_max {
                        return lines;
                    }
                    line.push(word.embedded, glyph.code);
                    used += glyph.width;
                }
                before = Some(word.embedded);
            }
            lines.push(line);
        }
        lines
    }
}

impl Line {
    fn push(&mut self, embedded: bool, code: u16) {
        match self.parts.last_mut() {
            Some(part) if part.embedded == embedded => part.codes.push(code),
            _ => self.parts.push(Part { embedded, codes: vec![code] }),
        }
    }
}

impl Setting {
    /// The operators that draw the lines in a plane whose origin is the upper left corner; fonts are /F1, Helvetica,
    /// and /F2, the embedded one.
    pub(crate) fn operators(&self, visible: bool) -> Vec<u8> {
        let mut out = Vec::from(if visible { &b"1 0 0 rg\nBT\n"[..] } else { b"BT\n3 Tr\n" });
        let mut font = None;
        for (row, line) in self.lines.iter().enumerate() {
            let x = self.margin + line.indent * self.size;
            let y = -(self.margin + self.size * (ASCENT + LEADING * row as f64));
            let mut operators = String::new();
            let _ = writeln!(operators, "1 0 0 1 {} {} Tm", decimal(x), decimal(y));
            out.extend_from_slice(operators.as_bytes());
            for part in &line.parts {
                if font.replace(part.embedded) != Some(part.embedded) {
                    let name = if part.embedded { "F2" } else { "F1" };
                    out.extend_from_slice(format!("/{name} {} Tf\n", decimal(self.size)).as_bytes());
                }
                if part.embedded {
                    let codes: String = part.codes.iter().map(|code| format!("{code:04X}")).collect();
                    out.extend_from_slice(format!("<{codes}>").as_bytes());
                } else {
                    let bytes: Vec<u8> =
                        part.codes.iter().filter_map(|&code| u8::try_from(code).ok()).collect();
                    writer::literal(&mut out, &bytes);
                }
                out.extend_from_slice(b" Tj\n");
            }
        }
        out.extend_from_slice(b"ET\n");
        out
    }
}

/// A number as content has it: no exponent, and as many places as a page of a few points wants.
pub(crate) fn decimal(number: f64) -> String {
    let text = format!("{number:.5}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

fn is_blank(letter: char) -> bool {
    letter.is_whitespace() && letter != '\u{A0}' || letter.is_control()
}

/// Letters that show nothing and only tell a layout engine what to do.
pub(crate) fn is_ignorable(letter: char) -> bool {
    matches!(u32::from(letter), 0xAD | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0xFE00..=0xFE0F | 0xFEFF
        | 0xE0000..=0xE0FFF)
}

/// Letters in the order in which they are displayed from left to right: runs of Hebrew and Arabic are turned round,
/// numbers within them are not.
fn displayed_order(text: &str) -> Vec<char> {
    let mut letters: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        if !is_right_to_left(letters[at]) {
            at += 1;
            continue;
        }
        let neutral = |letter: char| !letter.is_alphabetic() || is_right_to_left(letter);
        let run = letters[at..].iter().take_while(|&&letter| neutral(letter)).count();
        let end =
            at + letters[at..at + run].iter().rposition(|&letter| is_right_to_left(letter)).unwrap_or(0) + 1;
        letters[at..end].reverse();
        for number in letters[at..end].chunk_by_mut(|a, b| a.is_ascii_digit() && b.is_ascii_digit()) {
            number.reverse();
        }
        at = end;
    }
    letters
}

fn is_right_to_left(letter: char) -> bool {
    matches!(u32::from(letter), 0x0590..=0x08FF | 0xFB1D..=0xFDFF | 0xFE70..=0xFEFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[(&str, &str)]) -> Text {
        Text::new(lines, 10_000, false, false)
    }

    fn operators(lines: &[(&str, &str)], width: f64, height: f64) -> String {
        String::from_utf8_lossy(&text(lines).set(width, height, 1.0).operators(true)).into_owned()
    }

    #[test]
    fn lines_stand_in_order_at_seven_points() {
        let drawn = operators(&[("patient_id", "4711"), ("name", "Müller (Ä)")], 595.0, 842.0);
        let first = drawn.find("(patient_id: 4711) Tj").unwrap();
        assert!(first < drawn.find("(name: M").unwrap());
        assert!(drawn.contains("/F1 7 Tf") && !drawn.contains("/F2"));
    }

    #[test]
    fn a_word_is_all_of_one_font() {
        let drawn = operators(&[("name", "Łukasz Huber")], 595.0, 842.0);
        assert!(
            drawn.contains("(name: ) Tj\n/F2 7 Tf\n<") && drawn.contains("/F1 7 Tf\n(Huber) Tj"),
            "{drawn}"
        );
    }

    #[test]
    fn everything_stays_within_the_page_however_small_or_long() {
        let long = "word ".repeat(500) + &"x".repeat(2000);
        for (width, height) in
            [(595.0, 842.0), (100.0, 30.0), (10.0, 10.0), (3.0, 800.0), (800.0, 3.0), (0.5, 0.5)]
        {
            for value in ["short", &long] {
                let mut text = text(&[("name", value)]);
                let setting = text.set(width, height, 1.0);
                assert!(!setting.lines.is_empty(), "{width} {height}");
                let bottom =
                    setting.margin + setting.size * (ASCENT + LEADING * (setting.lines.len() - 1) as f64);
                assert!(bottom <= height, "{width} {height} {bottom}");
                for line in &setting.lines {
                    let codes = line.parts.iter().flat_map(|part| &part.codes);
                    let wide: f64 = codes.map(|&code| win_ansi::width(code as u8)).sum();
                    let right = setting.margin + setting.size * (line.indent + wide / 1000.0);
                    assert!(right <= width + 1e-6, "{width} {height} {right}");
                }
            }
        }
    }

    #[test]
    fn a_large_unit_makes_small_numbers() {
        let mut text = text(&[("a", "b")]);
        assert!((text.set(8.5, 11.0, 72.0).size - 7.0 / 72.0).abs() < 1e-9);
    }

    #[test]
    fn line_ends_and_controls_in_a_value_draw_nothing() {
        let drawn = operators(&[("a", "b\r\nc\td\0e\u{200B}f")], 595.0, 842.0);
        assert!(drawn.contains("(a: b)") && drawn.contains("(c d ef)"), "{drawn}");
    }

    #[test]
    fn text_is_cut_at_the_limit_and_says_so() {
        let text = Text::new(&[("a", &"x".repeat(100))], 50, false, false);
        assert!(text.cut);
        assert_eq!(text.paragraphs.iter().flatten().map(|word| word.glyphs.len()).sum::<usize>(), 49);
    }

    #[test]
    fn hebrew_stands_as_it_is_displayed_with_its_numbers_unturned() {
        let order = |text: &str| displayed_order(text).into_iter().collect::<String>();
        assert_eq!(order("name: אבג 12 ד end"), "name: ד 12 גבא end");
        assert_eq!(order("plain"), "plain");
    }
}
