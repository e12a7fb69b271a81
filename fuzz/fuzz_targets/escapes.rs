//! Escapes and formatting over any text and delimiters; what was escaped comes back.
#![no_main]

use hl7::delimiters::Delimiters;
use hl7::escape::{render_text, unescape};
use libfuzzer_sys::fuzz_target;

const MARKS: &[u8] = b"\\#!@\0|^~&";

fuzz_target!(|data: &[u8]| {
    let [mark, field, rest @ ..] = data else { return };
    let text = String::from_utf8_lossy(rest);
    let delimiters = Delimiters {
        escape: MARKS[usize::from(*mark) % MARKS.len()],
        field: MARKS[usize::from(*field) % MARKS.len()],
        ..Delimiters::default()
    };
    unescape(&text, &delimiters);
    let rendered = render_text(&text, &delimiters);
    assert!(!rendered.contains('\r'));
    // A command of five bytes makes at most 200 spaces behind an indent of as many.
    assert!(rendered.len() <= (text.len() + 1) * 400);

    let standard = Delimiters::default();
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '|' => r"\F\".to_owned(),
            '^' => r"\S\".to_owned(),
            '&' => r"\T\".to_owned(),
            '~' => r"\R\".to_owned(),
            '\\' => r"\E\".to_owned(),
            other => other.to_string(),
        })
        .collect();
    assert_eq!(unescape(&escaped, &standard), text);
});
