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

/// Further names of Python's codecs, normalised, with a label that is found without this table.
const ALIASES: [(&str, &str); 62] = [
    ("big5_tw", "big5"),
    ("big5hkscs", "big5"),
    ("cp_gr", "cp869"),
    ("cp_is", "cp861"),
    ("csibm855", "cp855"),
    ("csibm857", "cp857"),
    ("csibm858", "cp858"),
    ("csibm860", "cp860"),
    ("csibm861", "cp861"),
    ("csibm863", "cp863"),
    ("csibm864", "cp864"),
    ("csibm865", "cp865"),
    ("csibm869", "cp869"),
    ("cspc775baltic", "cp775"),
    ("cspc850multilingual", "cp850"),
    ("cspc862latinhebrew", "cp862"),
    ("cspc8codepage437", "cp437"),
    ("cspcp852", "cp852"),
    ("euc_cn", "gbk"),
    ("euccn", "gbk"),
    ("eucgb2312_cn", "gbk"),
    ("gb18030_2000", "gb18030"),
    ("gb2312_1980", "gbk"),
    ("gb2312_80", "gbk"),
    ("hkscs", "big5"),
    ("iso2022_jp_1", "iso-2022-jp"),
    ("iso2022_jp_2", "iso-2022-jp"),
    ("iso2022_jp_ext", "iso-2022-jp"),
    ("iso2022jp", "iso-2022-jp"),
    ("iso2022jp_1", "iso-2022-jp"),
    ("iso2022jp_2", "iso-2022-jp"),
    ("iso2022jp_ext", "iso-2022-jp"),
    ("iso8859_16", "iso-8859-16"),
    ("iso_2022_jp_1", "iso-2022-jp"),
    ("iso_2022_jp_2", "iso-2022-jp"),
    ("iso_2022_jp_ext", "iso-2022-jp"),
    ("iso_celtic", "iso-8859-14"),
    ("iso_ir_166", "windows-874"),
    ("iso_ir_199", "iso-8859-14"),
    ("iso_ir_226", "iso-8859-16"),
    ("ks_c_5601", "euc-kr"),
    ("ks_c_5601_1987", "euc-kr"),
    ("ks_x_1001", "euc-kr"),
    ("ksx1001", "euc-kr"),
    ("l10", "iso-8859-16"),
    ("l7", "iso-8859-13"),
    ("l8", "iso-8859-14"),
    ("macroman", "macintosh"),
    ("ms936", "gbk"),
    ("ms949", "euc-kr"),
    ("ms950", "big5"),
    ("mskanji", "shift_jis"),
    ("s_jis", "shift_jis"),
    ("shiftjis", "shift_jis"),
    ("thai", "windows-874"),
    ("tis620", "windows-874"),
    ("tis_620_0", "windows-874"),
    ("tis_620_2529_0", "windows-874"),
    ("tis_620_2529_1", "windows-874"),
    ("u32", "utf-32"),
    ("u_jis", "euc-jp"),
    ("ujis", "euc-jp"),
];

/// The encoding a label names; `None` when nobody knows it.
pub(super) fn find(label: &str) -> Option<Encoding> {
    let name: String = label
        .trim()
        .chars()
        .map(|c| if matches!(c, '-' | ' ') { '_' } else { c.to_ascii_lowercase() })
        .collect();
    if let Some(known) = find_named(&name) {
        return Some(known);
    }
    let digits = name.trim_start_matches("cp").trim_start_matches("ibm").trim_start_matches('_');
    if let Ok(number) = digits.parse::<u16>() {
        if let Some((page, _)) = CODE_PAGES.iter().find(|(page, _)| *page == number) {
            return Some(Encoding::CodePage(*page));
        }
        // Python's aliases of Windows' pages are their bare numbers.
        if digits == name {
            return find_named(&format!("cp{digits}"));
        }
    }
    if let Some((_, label)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return find(label);
    }
    // `iso_8859_2_1987` and its like: the year is that of the standard.
    let name = match name.strip_prefix("iso_8859_").and_then(|part| part.split_once('_')) {
        Some((part, year)) if year.parse::<u16>().is_ok() => format!("iso_8859_{part}"),
        _ => name,
    };
    // The Standard's labels write now one, now the other.
    Standard::for_label(&name)
        .or_else(|| Standard::for_label(&name.replace('_', "-")))
        .or_else(|| Standard::for_label(&name.replacen("iso_8859_", "iso-8859-", 1)))
}

/// By Python's own name, or by the Standard's label for a Windows page.
fn find_named(name: &str) -> Option<Encoding> {
    match PYTHON_NAMES.iter().find(|(python, _)| *python == name) {
        Some((_, known)) => Some(*known),
        None => name.starts_with("cp").then(|| Standard::for_label(name))?,
    }
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
            ("ISO-2022-JP", &["iso2022_jp", "iso-2022-jp", "iso2022_jp_2", "csISO2022JP"]),
            ("ISO-8859-16", &["l10", "iso_8859_16_2001", "latin10"]),
            ("windows-874", &["tis620", "iso8859_11", "cp874", "thai"]),
            ("cp862", &["cspc862latinhebrew", "cp862"]),
            ("EUC-KR", &["uhc", "949", "ksx1001"]),
            (
                "none",
                &[
                    "klingon",
                    "cp037",
                    "utf-7",
                    "hz",
                    "iso2022_kr",
                    "",
                    "replacement",
                    "x-user-defined",
                    "cp",
                    "99999999",
                ],
            ),
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
        let all = all.chain(ALIASES.iter().map(|(alias, _)| find(alias).unwrap()));
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
