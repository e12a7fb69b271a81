//! The labels a configuration may name an encoding by.

use super::{Encoding, Standard};
use encoding_rs::WINDOWS_1252;

/// IBM code pages that hospitals' older systems speak and the Encoding Standard lacks, with the names `name` gives.
const CODE_PAGES: [(u16, &str); 16] = [
    (437, "cp437"),
    (720, "cp720"),
    (737, "cp737"),
    (775, "cp775"),
    (850, "cp850"),
    (852, "cp852"),
    (855, "cp855"),
    (857, "cp857"),
    (858, "cp858"),
    (860, "cp860"),
    (861, "cp861"),
    (862, "cp862"),
    (863, "cp863"),
    (864, "cp864"),
    (865, "cp865"),
    (869, "cp869"),
];

/// Python's names that the Encoding Standard lacks or gives another meaning, normalised.
const PYTHON_NAMES: [(&str, Encoding); 69] = [
    ("auto", Encoding::Auto),
    ("utf8", Encoding::Utf8),
    ("utf_8", Encoding::Utf8),
    ("u8", Encoding::Utf8),
    ("utf", Encoding::Utf8),
    ("cp65001", Encoding::Utf8),
    ("utf_8_sig", Encoding::Utf8),
    ("utf8_sig", Encoding::Utf8),
    ("latin_1", Encoding::Latin1),
    ("latin1", Encoding::Latin1),
    ("latin", Encoding::Latin1),
    ("l1", Encoding::Latin1),
    ("8859", Encoding::Latin1),
    ("iso8859", Encoding::Latin1),
    ("iso8859_1", Encoding::Latin1),
    ("iso88591", Encoding::Latin1),
    ("iso_8859_1", Encoding::Latin1),
    ("iso_8859_1_1987", Encoding::Latin1),
    ("iso_8859_1:1987", Encoding::Latin1),
    ("iso_ir_100", Encoding::Latin1),
    ("csisolatin1", Encoding::Latin1),
    ("cp819", Encoding::Latin1),
    ("ibm819", Encoding::Latin1),
    ("ascii", Encoding::Ascii),
    ("us_ascii", Encoding::Ascii),
    ("646", Encoding::Ascii),
    ("ansi_x3.4_1968", Encoding::Ascii),
    ("ansi_x3_4_1968", Encoding::Ascii),
    ("ansi_x3.4_1986", Encoding::Ascii),
    ("iso646_us", Encoding::Ascii),
    ("iso_646.irv_1991", Encoding::Ascii),
    ("iso_ir_6", Encoding::Ascii),
    ("cp367", Encoding::Ascii),
    ("ibm367", Encoding::Ascii),
    ("csascii", Encoding::Ascii),
    ("us", Encoding::Ascii),
    ("cp1252", Encoding::Cp1252),
    ("1252", Encoding::Cp1252),
    ("windows_1252", Encoding::Cp1252),
    ("x_cp1252", Encoding::Cp1252),
    ("utf_16", Encoding::Utf16),
    ("utf16", Encoding::Utf16),
    ("u16", Encoding::Utf16),
    ("utf_16_le", Encoding::Utf16Le),
    ("utf_16le", Encoding::Utf16Le),
    ("utf_16_be", Encoding::Utf16Be),
    ("utf_16be", Encoding::Utf16Be),
    ("utf_32", Encoding::Utf32),
    ("utf32", Encoding::Utf32),
    ("utf_32_le", Encoding::Utf32Le),
    ("utf_32le", Encoding::Utf32Le),
    ("utf_32_be", Encoding::Utf32Be),
    ("utf_32be", Encoding::Utf32Be),
    ("cp874", Encoding::Other(Standard(encoding_rs::WINDOWS_874))),
    ("cp932", Encoding::Other(Standard(encoding_rs::SHIFT_JIS))),
    ("cp936", Encoding::Other(Standard(encoding_rs::GBK))),
    ("cp949", Encoding::Other(Standard(encoding_rs::EUC_KR))),
    ("uhc", Encoding::Other(Standard(encoding_rs::EUC_KR))),
    ("cp950", Encoding::Other(Standard(encoding_rs::BIG5))),
    ("eucjp", Encoding::Other(Standard(encoding_rs::EUC_JP))),
    ("euckr", Encoding::Other(Standard(encoding_rs::EUC_KR))),
    ("iso2022_jp", Encoding::Other(Standard(encoding_rs::ISO_2022_JP))),
    ("latin7", Encoding::Other(Standard(encoding_rs::ISO_8859_13))),
    ("latin8", Encoding::Other(Standard(encoding_rs::ISO_8859_14))),
    ("latin9", Encoding::Other(Standard(encoding_rs::ISO_8859_15))),
    ("latin10", Encoding::Other(Standard(encoding_rs::ISO_8859_16))),
    ("mac_roman", Encoding::Other(Standard(encoding_rs::MACINTOSH))),
    ("mac_cyrillic", Encoding::Other(Standard(encoding_rs::X_MAC_CYRILLIC))),
    ("maccyrillic", Encoding::Other(Standard(encoding_rs::X_MAC_CYRILLIC))),
];

/// The encoding a label names; `None` when nobody knows it.
pub(super) fn find(label: &str) -> Option<Encoding> {
    let name: String = label
        .trim()
        .chars()
        .map(|c| if matches!(c, '-' | ' ') { '_' } else { c.to_ascii_lowercase() })
        .collect();
    if let Some((_, known)) = PYTHON_NAMES.iter().find(|(python, _)| *python == name) {
        return Some(*known);
    }
    let digits = name.trim_start_matches("cp").trim_start_matches("ibm").trim_start_matches('_');
    if let Ok(number) = digits.parse::<u16>() {
        if let Some((page, _)) = CODE_PAGES.iter().find(|(page, _)| *page == number) {
            return Some(Encoding::CodePage(*page));
        }
        // Python's aliases of Windows' pages are their bare numbers.
        if digits == name {
            return Standard::for_label(&format!("cp{digits}"));
        }
    }
    // The Standard's labels write now one, now the other.
    Standard::for_label(&name)
        .or_else(|| Standard::for_label(&name.replace('_', "-")))
        .or_else(|| Standard::for_label(&name.replacen("iso_8859_", "iso-8859-", 1)))
}

/// The name `name` gives a code page.
pub(super) fn name_of_code_page(number: u16) -> &'static str {
    CODE_PAGES.iter().find(|(page, _)| *page == number).map_or("unknown", |(_, name)| name)
}

impl Standard {
    fn for_label(label: &str) -> Option<Encoding> {
        let found = encoding_rs::Encoding::for_label_no_replacement(label.as_bytes())?;
        if found == encoding_rs::UTF_8 {
            return Some(Encoding::Utf8);
        }
        if found == encoding_rs::X_USER_DEFINED {
            return None;
        }
        // Its labels that begin like "unicode" or "ucs" say nothing certain of the order.
        if found == encoding_rs::UTF_16LE {
            return Some(Encoding::Utf16);
        }
        if found == encoding_rs::UTF_16BE {
            return Some(Encoding::Utf16Be);
        }
        // Left are labels of windows-1252 that no Python codec claims.
        Some(if found == WINDOWS_1252 { Encoding::Cp1252 } else { Encoding::Other(Standard(found)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(label: &str) -> &'static str {
        Encoding::from_label(label).map_or("none", Encoding::name)
    }

    #[test]
    fn labels_of_python_and_whatwg_are_known() {
        for (name, labels) in [
            ("utf-8", &["UTF-8", "utf8", "utf_8", "U8", "utf-8-sig", "unicode-1-1-utf-8"][..]),
            ("latin-1", &["latin-1", "latin1", "L1", "iso-8859-1", "ISO_8859-1", "iso8859-1", "8859"]),
            ("cp1252", &["cp1252", "windows-1252", "1252", "Windows 1252"]),
            ("ascii", &["ascii", "US-ASCII", "646"]),
            ("utf-16", &["utf-16", "UTF16", "utf_16"]),
            ("utf-16-le", &["utf-16-le", "UTF-16LE"]),
            ("utf-32", &["utf-32"]),
            ("cp850", &["cp850", "850", "IBM850", "ibm-850"]),
            ("cp437", &["cp437", "IBM437"]),
            ("IBM866", &["cp866", "866", "ibm866"]),
            ("windows-1251", &["cp1251", "1251", "windows-1251"]),
            ("ISO-8859-2", &["iso-8859-2", "latin2", "iso8859_2", "iso_8859_2", "L2"]),
            ("ISO-8859-15", &["iso-8859-15", "iso8859_15", "latin9", "l9", "iso_8859_15"]),
            ("windows-1254", &["iso8859-9", "latin5"]),
            ("KOI8-R", &["koi8_r", "koi8-r"]),
            ("GBK", &["gbk", "gb2312", "cp936"]),
            ("gb18030", &["gb18030"]),
            ("Shift_JIS", &["shift_jis", "sjis", "cp932", "shift-jis"]),
            ("EUC-KR", &["euc_kr", "euckr", "cp949"]),
            ("Big5", &["big5", "cp950"]),
            ("macintosh", &["mac_roman", "macintosh"]),
            ("auto", &["auto"]),
            ("none", &["klingon", "", "replacement", "x-user-defined", "cp", "99999999"]),
        ] {
            for label in labels {
                assert_eq!(named(label), name, "{label}");
            }
        }
    }

    #[test]
    fn every_name_reads_back_to_itself() {
        let others =
            ["cp1250", "cp1251", "koi8-u", "euc-jp", "gb18030", "big5", "iso-8859-8-i", "iso-8859-16"];
        let all = PYTHON_NAMES.iter().map(|(_, encoding)| *encoding);
        let all = all.chain(CODE_PAGES.iter().map(|(page, _)| Encoding::CodePage(*page)));
        for encoding in all.chain(others.iter().map(|label| Encoding::from_label(label).unwrap())) {
            assert_eq!(Encoding::from_label(encoding.name()), Some(encoding), "{}", encoding.name());
            let json = serde_json::to_string(&encoding).unwrap();
            assert_eq!(serde_json::from_str::<Encoding>(&json).unwrap(), encoding);
        }
    }

    proptest! {
        #[test]
        fn no_label_makes_from_label_panic(label in "\\PC{0,30}") {
            Encoding::from_label(&label);
        }
    }
}
