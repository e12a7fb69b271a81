//! Helvetica in WinAnsi encoding: the letters it has and how wide they are.

/// Widths of codes 32 to 255 in thousandths of the size (Adobe's metrics of the 14 standard fonts); 0 where none is.
#[rustfmt::skip]
static WIDTHS: [u16; 224] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584, 0,
    556, 0, 222, 556, 333, 1000, 556, 556, 333, 1000, 667, 333, 1000, 0, 611, 0,
    0, 222, 222, 333, 333, 350, 556, 1000, 333, 1000, 500, 333, 944, 0, 500, 667,
    278, 333, 556, 556, 556, 556, 260, 556, 333, 737, 370, 556, 584, 333, 737, 333,
    400, 584, 333, 333, 333, 556, 537, 278, 333, 333, 365, 556, 834, 834, 834, 611,
    667, 667, 667, 667, 667, 667, 1000, 722, 667, 667, 667, 667, 278, 278, 278, 278,
    722, 722, 778, 778, 778, 778, 778, 584, 778, 722, 722, 722, 722, 667, 667, 611,
    556, 556, 556, 556, 556, 556, 889, 500, 556, 556, 556, 556, 278, 278, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 584, 611, 556, 556, 556, 556, 500, 556, 500,
];

/// Letters of codes 128 to 159; U+FFFD where the code has none.
static HIGH: [char; 32] = [
    '€', '\u{FFFD}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{FFFD}', 'Ž', '\u{FFFD}',
    '\u{FFFD}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{FFFD}', 'ž', 'Ÿ',
];

/// The code of a letter. A soft hyphen has none: it would be drawn as a hyphen.
pub(crate) fn code(letter: char) -> Option<u8> {
    match u32::from(letter) {
        point @ (0x20..=0x7E | 0xA0..=0xAC | 0xAE..=0xFF) => u8::try_from(point).ok(),
        0xFFFD => None,
        _ => HIGH.iter().position(|&high| high == letter).and_then(|at| u8::try_from(0x80 + at).ok()),
    }
}

/// How far a code advances, in thousandths of the size.
pub(crate) fn width(code: u8) -> f64 {
    code.checked_sub(32).map_or(0.0, |at| f64::from(WIDTHS[usize::from(at)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_has_a_letter_has_a_width() {
        for letter in ('\0'..'\u{3000}').filter(|&letter| code(letter).is_some()) {
            assert!(width(code(letter).unwrap()) > 0.0, "{letter}");
        }
        assert_eq!(
            (code('A'), code('€'), code('ÿ'), code('Ł'), code('\u{AD}')),
            (Some(65), Some(128), Some(255), None, None)
        );
        assert_eq!(width(b'W'), 944.0);
    }
}
