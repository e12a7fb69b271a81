//! Every encoding over any bytes and text: counts agree with the text, and what was written reads back.
#![no_main]

use hl7::charset::{self, Encoding};
use libfuzzer_sys::fuzz_target;

const LABELS: [&str; 40] = [
    "auto",
    "utf-8",
    "latin-1",
    "ascii",
    "cp1252",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp1258",
    "cp874",
    "cp437",
    "cp850",
    "cp852",
    "cp857",
    "cp864",
    "cp866",
    "iso-8859-2",
    "iso-8859-5",
    "iso-8859-6",
    "iso-8859-8",
    "iso-8859-15",
    "koi8-r",
    "koi8-u",
    "mac_roman",
    "shift_jis",
    "euc-jp",
    "iso-2022-jp",
    "euc-kr",
    "gbk",
    "gb18030",
    "big5",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "utf-32-be",
    "utf-16-le",
];

fuzz_target!(|data: &[u8]| {
    let [choice, bytes @ ..] = data else { return };
    let label = LABELS[usize::from(*choice) % LABELS.len()];
    let encoding = Encoding::from_label(label).expect("the label is one");
    let decoded = charset::decode(bytes, encoding);
    let replaced = decoded.text.matches('\u{FFFD}').count();
    assert!(decoded.undecodable <= replaced, "{} of {replaced} counted", decoded.undecodable);

    let text = String::from_utf8_lossy(bytes);
    charset::declared(&text);
    // Marks are passed over, and switches carried out, on the way back.
    if text.contains(['\u{FEFF}', '\u{1B}', '\\', '\u{E}', '\u{F}']) || bytes.starts_with(b"MSH") {
        return;
    }
    if let Some(written) = charset::encode(&text, encoding)
        && !written.starts_with(b"\xEF\xBB\xBF")
        && !matches!(label, "utf-16" | "utf-32")
    {
        let again = charset::decode(&written, encoding);
        if again.undecodable == 0 && !is_variant(label) {
            assert_eq!(again.text, text, "{label}");
        }
    }
});

/// Encodings that write some characters as their look-alikes, as the Encoding Standard has it.
fn is_variant(label: &str) -> bool {
    matches!(label, "shift_jis" | "euc-jp" | "iso-2022-jp" | "gbk" | "gb18030" | "big5")
}
