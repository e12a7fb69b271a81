//! A stamp on any bytes: bounded, the original's bytes in front where the result says so, and what was stamped can be
//! stamped again. A text of any characters becomes a document that can be stamped.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pdf::{How, Limits, Look, Pages, Stamped};

/// So that small inputs reach them.
const LIMITS: Limits = Limits {
    bytes_max: 1 << 20,
    decompressed_bytes_max: 1 << 20,
    objects_max: 5_000,
    entries_max: 5_000,
    pages_max: 500,
    recovered_bytes_max: 64 << 10,
    text_max: 256,
};

const LINES: [&[(&str, &str)]; 4] = [
    &[("patient_id", "4711"), ("name", "M\u{fc}ller")],
    &[("name", "\u{17b}\u{f3}\u{142}\u{107} \u{6f22}\u{5b57} \u{1f642} \u{202e}abc")],
    &[("a(b)\\", "line\nbreak\r\ttab\u{0}"), ("", "")],
    &[],
];

fuzz_target!(|data: &[u8]| {
    let [choice, bytes @ ..] = data else { return };
    let look = if choice & 1 == 0 { Look::Visible } else { Look::Invisible };
    let pages = if choice & 2 == 0 { Pages::First } else { Pages::All };
    let lines = LINES[usize::from(choice >> 2 & 3)];
    if choice & 0x10 == 0 {
        let Ok(stamped) = pdf::stamp(bytes, lines, look, pages, &LIMITS) else { return };
        check(bytes, &stamped);
        // Another update, on ours; only a bound may be in its way.
        match pdf::stamp(&stamped.bytes, lines, look, pages, &Limits::default()) {
            Ok(again) => {
                assert_eq!(again.how, How::Incremental, "our own cross-reference holds");
                check(&stamped.bytes, &again);
            }
            Err(unstamped) => panic!("what was stamped cannot be stamped again: {unstamped}"),
        }
    } else {
        let text = String::from_utf8_lossy(bytes);
        let title = if choice & 0x20 == 0 { "" } else { "title\nof two lines" };
        let document = pdf::layout(&text, title, lines);
        let stamped = pdf::stamp(&document, lines, look, pages, &Limits::default())
            .expect("what was laid out can be stamped");
        assert_eq!(stamped.how, How::Incremental);
        check(&document, &stamped);
    }
});

fn check(original: &[u8], stamped: &Stamped) {
    if stamped.how == How::Incremental {
        assert!(stamped.bytes.starts_with(original), "the original stands in front");
        assert!(stamped.bytes.len() > original.len());
    }
    assert!(
        stamped.notes.iter().all(|note| !note.contains('\n') && !note.contains("4711")),
        "{:?}",
        stamped.notes
    );
}
