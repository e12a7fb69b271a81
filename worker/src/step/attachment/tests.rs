//! The layouts of real messages, one claim each; then the corpus beside the repository.

use super::*;
use crate::testing::settings;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

mod layouts;

/// Whole: it ends as a PDF does.
const PDF: &[u8] =
    b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj <</Type/Catalog>> endobj trailer <</Root 1 0 R>>\n%%EOF\n";
const JPEG: &[u8] =
    b"\xff\xd8\xff\xe0\0\x10JFIF a thumbnail that is longer than a line of text would ever be, and so on";

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

/// As data of encoding A: delimiters, controls and what is no ASCII are escaped.
fn plain(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b'|' => text.push_str("\\F\\"),
            b'^' => text.push_str("\\S\\"),
            b'&' => text.push_str("\\T\\"),
            b'~' => text.push_str("\\R\\"),
            b'\\' => text.push_str("\\E\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\X{byte:02X}\\").unwrap(),
        }
    }
    text
}

/// The channel with these lines; each is read once.
fn channel(lines: &str) -> Arc<Channel> {
    static READ: Mutex<BTreeMap<String, Arc<Channel>>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap();
    read.entry(lines.to_owned()).or_insert_with(|| Arc::new(settings(lines).channel)).clone()
}

fn attachments(lines: &str, segments: &str) -> Result<Vec<Attachment>, String> {
    let text = format!("MSH|^~\\&|A|B|C|D|20260101||ORU^R01|1|P|2.5\r{segments}");
    let message = Message::parse(&text).unwrap();
    find(&message, &channel(lines))
}

fn found(lines: &str, segments: &str) -> Result<Vec<Vec<u8>>, String> {
    attachments(lines, segments).map(|found| {
        assert!(found.iter().all(|attachment| attachment.suffix == ".pdf"));
        found.into_iter().map(|attachment| attachment.bytes).collect()
    })
}

const SEARCH: &str = "mapping: {}";
const EVERY: &str = "attachment_field: OBX.*.5";

/// Found alone with each kind of `attachment_field`.
#[track_caller]
fn is_found(segments: &str, path: &str, pdf: &[u8]) {
    for lines in [SEARCH, EVERY, &format!("attachment_field: {path}")] {
        assert!(found(lines, segments) == Ok(vec![pdf.to_vec()]), "{lines}: {:?}", found(lines, segments));
    }
}

#[track_caller]
fn is_found_in(value: &str) {
    is_found(&format!("OBX|1|ED|1||{value}||||||F\r"), "OBX.1.5", PDF);
}

#[test]
fn a_pdf_is_found_however_it_is_declared() {
    let data = base64(PDF);
    for before in [
        "^application^pdf^Base64^",
        "^AP^PDF^Base64^",
        "^TX^PDF^Base64^",
        "^TEXT^^Base64^",
        "PDF^TEXT^^Base64^",
        "^^^^",
        "",
        "LAB&1.2.3&ISO^application^pdf^BASE64^",
        "^image^jpeg^Base64^",
        "^application^pdf^^",
        "^^PDF^Base64^",
        "application^pdf^Base64^",
        "^application^pdf^Hex^",
        "A^application^pdf^A^",
    ] {
        is_found_in(&format!("{before}{data}"));
    }
    is_found_in(&format!("^application^pdf^Base64^{data}^^"));
}

#[test]
fn base64_is_read_wrapped_unpadded_and_in_the_alphabet_for_urls() {
    let data = base64(PDF);
    let ed = |data: &str| is_found_in(&format!("^application^pdf^Base64^{data}"));
    ed(data.trim_end_matches('='));
    ed(&base64_simd::URL_SAFE_NO_PAD.encode_to_string(PDF));
    ed(&format!("{data}=="));
    for blank in [" ", "\\.br\\", "\\X0D0A\\", "\\X0D\\\\X0A\\", "\\x0d0a\\", "\n", " \t", "\\.br\\ "] {
        let lines: Vec<&str> =
            (0..data.len()).step_by(20).map(|at| &data[at..data.len().min(at + 20)]).collect();
        ed(&lines.join(blank));
        ed(&format!("{blank}{data}{blank}"));
        ed(&format!("{}{blank}{}", &data[..3], &data[3..]));
    }
    let (head, tail) = PDF.split_at(20);
    ed(&format!("{}\\.br\\{}", base64(head), base64(tail)));
}

#[test]
fn digits_that_are_delimiters_are_escaped_and_come_back() {
    let data = base64_simd::STANDARD.encode_to_string(b"%PDF-1.4 \xff\xff\xff\xfb\xef\xbe ends%%EOF");
    assert!(data.contains('/') && data.contains('+'));
    let escaped = data.replace('+', "\\S\\").replace('/', "\\T\\");
    let text = format!("MSH|+~\\/|A|B|C|D|20260101||ORU+R01|1|P|2.5\rOBX|1|ED|1||+++Base64+{escaped}\r");
    let message = Message::parse(&text).unwrap();
    let bytes = find(&message, &channel(SEARCH)).unwrap().remove(0).bytes;
    assert!(bytes.ends_with(b"ends%%EOF") && bytes.starts_with(b"%PDF-"));
}

#[test]
fn an_escape_character_that_is_a_digit_begins_escapes_all_the_same() {
    let pdf = b"%PDF-1.4 \n%%EOF";
    let digits = base64(pdf);
    assert!(!digits.contains('/'));
    let text = format!(
        "MSH|^~/&|A|B|C|D|20260101||ORU^R01|1|P|2.5\rOBX|1|ED|||^AP^^Base64^{}{}{}\r",
        &digits[..9],
        // As many as leave a sound text where they are taken for digits.
        "/X0D/".repeat(4),
        &digits[9..]
    );
    let found = find(&Message::parse(&text).unwrap(), &channel(EVERY)).unwrap();
    assert_eq!(found[0].bytes, pdf);
}

#[test]
fn hex_and_plain_data_are_read() {
    is_found_in(&format!("^application^pdf^Hex^{}", hex(PDF)));
    is_found_in(&format!("^application^pdf^Hex^{}", hex(PDF).to_lowercase()));
    is_found_in(&format!("^application^pdf^Hex^{} \\.br\\{}", &hex(PDF)[..21], &hex(PDF)[21..]));
    is_found_in(&hex(PDF));
    is_found_in(&format!("^application^pdf^A^{}", plain(PDF)));
    is_found_in(&plain(PDF));
}

#[test]
fn plain_data_is_the_bytes_the_sender_s_encoding_made_of_it() {
    let value: String = PDF.iter().map(|&b| char::from(b)).collect();
    let segments = format!("OBX|1|ED|1||^application^pdf^A^{value}||||||F\r");
    for encoding in ["latin-1", "utf-16"] {
        let lines = format!("encoding: {encoding}\nattachment_field: OBX.1.5");
        assert_eq!(found(&lines, &segments), Ok(vec![PDF.to_vec()]), "{encoding}");
    }
    let auto = channel("encoding: auto\nattachment_field: OBX.1.5");
    let text = format!("MSH|^~\\&|A|B|C|D|20260101||ORU^R01|1|P|2.5||||||8859/1\r{segments}");
    let message = Message::parse(&text).unwrap();
    assert_eq!(find(&message, &auto).unwrap()[0].bytes, PDF);
}

#[test]
fn bytes_before_the_start_are_kept_up_to_the_1024th() {
    for (before, is_pdf) in [(1, true), (1023, true), (1024, false)] {
        let bytes = [&vec![b'x'; before], PDF].concat();
        for data in [
            format!("^application^pdf^Base64^{}", base64(&bytes)),
            format!("^application^pdf^Hex^{}", hex(&bytes)),
            format!("^application^pdf^A^{}", plain(&bytes)),
        ] {
            let found = found("attachment_field: OBX.1.5", &format!("OBX|1|ED|1||{data}\r"));
            assert_eq!(found.is_ok_and(|found| found == [bytes.clone()]), is_pdf, "{before} {}", &data[..30]);
        }
    }
}

#[test]
fn a_text_that_speaks_of_a_pdf_is_none() {
    for value in ["The file begins with %PDF-1.4, and so on", "^application^pdf^Base64^%PDF", "JVBER", "%PDF"]
    {
        let reason = found(SEARCH, &format!("OBX|1|TX|1||{value}\r")).unwrap_err();
        assert_eq!(reason, "no PDF found in any OBX or Z segment", "{value}");
    }
}

#[test]
fn a_pdf_in_a_text_row_or_behind_other_rows_is_found() {
    let data = base64(PDF);
    is_found(&format!("OBX|1|TX|1||{data}\r"), "OBX.1.5", PDF);
    is_found(
        &format!("OBX|1|TX|1||Report\rOBX|2|TX|1||{data}\rOBX|3|TX|1||Signed by Dr Who\r"),
        "OBX.2.5",
        PDF,
    );
    is_found(&format!("OBX|1|HD|UID||1.2.840.10008\rOBX|2|ED|1||^AP^PDF^Base64^{data}\r"), "OBX.2.5", PDF);
    let jpeg = base64(JPEG);
    is_found(
        &format!(
            "OBX|1|ED|1||^image^jpeg^Base64^{jpeg}\rOBX|2|ED|1||^IM^JPEG^Base64^{jpeg}\r\
             OBX|3|ED|1||^TX^PDF^Base64^{data}\rOBX|4|ED|1||^image^jpeg^Base64^{jpeg}\rOBX|5|ED|1||^^^^{jpeg}\r"
        ),
        "OBX.3.5",
        PDF,
    );
}

#[test]
fn without_a_field_the_first_pdf_is_taken_obx_before_z_segments() {
    let other = [PDF, b"%another%%EOF"].concat();
    let (data, late) = (base64(PDF), base64(&other));
    assert_eq!(found(SEARCH, &format!("ZPD|1|{late}\rOBX|1|ED|||{data}\r")), Ok(vec![PDF.to_vec()]));
    assert_eq!(found(SEARCH, &format!("OBX|1|ED|||{data}\rOBX|2|ED|||{late}\r")), Ok(vec![PDF.to_vec()]));
    assert_eq!(found(SEARCH, &format!("NTE|1||{late}\rZPD|1||^^^Base64^{data}\r")), Ok(vec![PDF.to_vec()]));
    let (head, tail) = data.split_at(40);
    for split in [
        format!("ZPD|1|{head}~{tail}\r"),
        format!("ZPD|1|{head}\rZPD|2|{tail}\r"),
        format!("ZPD|1|{head}\rZXX|2|{}\rNTE|1|x\rZPD|2|{tail}\r", "x".repeat(80)),
    ] {
        assert_eq!(found(SEARCH, &split), Ok(vec![PDF.to_vec()]), "{split}");
    }
}

#[test]
fn one_that_does_not_decode_is_passed_over_in_a_search_and_named_at_a_field() {
    let broken = format!("OBX|1|ED|||^^^Base64^{}!\r", base64(PDF));
    let both = format!("{broken}OBX|2|ED|||^^^Base64^{}\r", base64(PDF));
    assert_eq!(found(SEARCH, &both), Ok(vec![PDF.to_vec()]));
    assert_eq!(
        found(SEARCH, &broken).unwrap_err(),
        "data in an OBX or Z segment begins as a PDF but does not decode"
    );
    assert_eq!(
        found(EVERY, &both).unwrap_err(),
        "the data at attachment_field OBX.*.5 begins as a PDF but does not decode"
    );
}

#[test]
fn the_reason_says_what_is_missing() {
    let text = format!("OBX|1|ED|||^application^pdf^Base64^{}\r", base64(b"no document at all"));
    let at = "attachment_field: OBX.1.5";
    assert_eq!(
        found(at, &text).unwrap_err(),
        "no PDF at attachment_field OBX.1.5: no data there decodes to %PDF-"
    );
    for nothing in ["OBX|1|ED|||\r", "OBX|1\r", ""] {
        assert_eq!(found(at, nothing).unwrap_err(), "nothing found at attachment_field OBX.1.5");
    }
    assert_eq!(found(SEARCH, &text).unwrap_err(), "no PDF found in any OBX or Z segment");
}

#[test]
fn a_document_split_over_obx_or_repetitions_is_joined() {
    let data = base64(PDF);
    let ed = "^application^pdf^Base64^";
    // At every place behind its start: pieces of one text have any length.
    for at in 8..data.len() {
        let (head, tail) = data.split_at(at);
        is_found(
            &format!("OBX|1|ED|R^REPORT|1|{ed}{head}\rOBX|2|ED|R^REPORT|1|{ed}{tail}\r"),
            "OBX.1.5",
            PDF,
        );
        is_found(&format!("OBX|1|ED|R^REPORT||{ed}{head}~{ed}{tail}\r"), "OBX.1.5", PDF);
        is_found(&format!("OBX|1|ED|R^REPORT||{ed}{head}~{tail}\r"), "OBX.1.5", PDF);
        is_found(&format!("OBX|1|ED|R^REPORT||{head}\rOBX|2|ED|R^REPORT||{ed}{tail}\r"), "OBX.1.5", PDF);
        is_found(&format!("OBX|1|TX|R^REPORT||{head}\rOBX|2|TX|R^REPORT||{tail}\r"), "OBX.1.5", PDF);
        // With a number for each piece the rows are not alike, and a path to the first names one row.
        let numbered = format!("OBX|1|ED|R|1|{ed}{head}\rOBX|2|ED|R|2|{ed}{tail}\r");
        for lines in [SEARCH, EVERY] {
            assert_eq!(found(lines, &numbered), Ok(vec![PDF.to_vec()]), "{at} {lines}");
        }
    }
}

#[test]
fn pieces_encoded_each_by_itself_are_joined() {
    for at in 6..PDF.len() {
        let (head, tail) = (base64(&PDF[..at]), base64(&PDF[at..]));
        is_found(&format!("OBX|1|ED|R||^^^Base64^{head}\rOBX|2|ED|R||^^^Base64^{tail}\r"), "OBX.1.5", PDF);
        let (head, tail) = (head.trim_end_matches('='), tail.trim_end_matches('='));
        is_found(&format!("OBX|1|ED|R||^^^Base64^{head}~^^^Base64^{tail}\r"), "OBX.1.5", PDF);
    }
    for (pieces, at) in [(hex(PDF), 21), (plain(PDF), 8)] {
        let (head, tail) = pieces.split_at(at);
        is_found(&format!("OBX|1|ED|R||^^^Hex^{head}\rOBX|2|ED|R||^^^Hex^{tail}\r"), "OBX.1.5", PDF);
        is_found(&format!("OBX|1|ED|R||^^^A^{head}~{tail}\r"), "OBX.1.5", PDF);
    }
}

#[test]
fn what_stands_between_the_parts_and_is_none_is_not_appended() {
    let (data, jpeg) = (base64(PDF), base64(JPEG));
    let long = "x".repeat(80);
    let (head, tail) = data.split_at(41);
    for between in [
        String::new(),
        "OBX|9|ED|R||\r".to_owned(),
        "OBX|9|ED|R||\"\"\r".to_owned(),
        "OBX|9|ED|R||^application^pdf^Base64^\r".to_owned(),
        "OBX|9|ED|R||^application^pdf^Base64\r".to_owned(),
        "OBX|9\r".to_owned(),
        format!("OBX|9|ED|R||^image^jpeg^Base64^{jpeg}\r"),
        format!("OBX|9|ED|R||^IM^JPEG^Base64^{long}\r"),
        format!("OBX|9|ED|R||^application^pdf^Base64^{jpeg}\r"),
        format!("OBX|9|ED|R||^TEXT^html^Base64^{}\r", base64(b"<p>a page of this report</p>")),
        "OBX|9|TX|R||Normal\r".to_owned(),
        "OBX|9|TX|R||Findings are normal, nothing to report.\r".to_owned(),
        "OBX|9|ST|R||12345\r".to_owned(),
        "OBX|9|NM|R||7\r".to_owned(),
        "OBX|9|ED|R||Normal\r".to_owned(),
        "NTE|1||a note\rOBX|9|CWE|R||A^Positive^L\r".to_owned(),
    ] {
        let ed = "^application^pdf^Base64^";
        let rows = format!("OBX|1|ED|R||{ed}{head}\r{between}OBX|2|ED|R||{ed}{tail}\r");
        for lines in [SEARCH, EVERY] {
            assert_eq!(found(lines, &rows), Ok(vec![PDF.to_vec()]), "{lines} {between}");
        }
        let behind = format!("OBX|1|ED|R||{ed}{data}\r{between}");
        is_found(&behind, "OBX.1.5", PDF);
    }
    for between in ["Normal", "Report follows", "see below", "20260102", "a line, with a stop."] {
        let rows =
            format!("OBX|1|TX|R||{head}\rOBX|2|TX|R||{between}\rOBX|3|TX|R||{tail}\rOBX|4|TX|R||{between}\r");
        is_found(&rows, "OBX.1.5", PDF);
    }
    // Data of another document that no one asked for, behind a whole one.
    let signature =
        format!("OBX|1|ED|R||^AP^PDF^Base64^{data}\rOBX|2|ED|R||^AP^octet-stream^Base64^{long}\r");
    is_found(&signature, "OBX.1.5", PDF);
}

#[test]
fn to_a_pdf_without_an_end_all_that_can_be_its_data_is_taken() {
    let cut = &PDF[..PDF.len() - 8];
    let (data, long) = (base64(cut), "x".repeat(80));
    let (head, tail) = data.split_at(41);
    let ed = "^application^pdf^Base64^";
    for between in [
        String::new(),
        format!("OBX|9|ED|R|1|^IM^JPEG^Base64^{long}\r"),
        format!("OBX|9|ED|R|1|^image/dicom^^Base64^{long}\r"),
        "OBX|9|ED|R|1|Normal\r".to_owned(),
    ] {
        let rows = format!("OBX|1|ED|R|1|{ed}{head}\r{between}OBX|2|ED|R|2|^^^Base64^{tail}\r{between}");
        for lines in [SEARCH, EVERY] {
            assert_eq!(found(lines, &rows), Ok(vec![cut.to_vec()]), "{between}");
        }
    }
}

#[test]
fn every_part_that_starts_a_pdf_is_another_document() {
    let other = [PDF, b"%another%%EOF"].concat();
    let (data, late) = (base64(PDF), base64(&other));
    let (head, tail) = data.split_at(40);
    let all = Ok(vec![PDF.to_vec(), other.clone(), PDF.to_vec()]);
    let ed = "^application^pdf^Base64^";
    let rows = format!(
        "OBX|1|ED|R||{ed}{head}\rOBX|2|ED|R||{ed}{tail}\rOBX|3|ED|R||{ed}{late}\rOBX|4|TX|R||{head}\rOBX|5|TX|R||{tail}\r"
    );
    assert_eq!(found(EVERY, &rows), all);
    assert_eq!(found("attachment_field: OBX.1.5", &rows), Ok(vec![PDF.to_vec()]));
    assert_eq!(found("attachment_field: OBX.3.5", &rows), Ok(vec![other.clone()]));
    let repetitions = format!("OBX|1|ED|R||{ed}{head}~{ed}{tail}~{ed}{late}~{data}\r");
    for lines in ["attachment_field: OBX.1.5", "attachment_field: OBX.1.5[*]", EVERY] {
        assert_eq!(found(lines, &repetitions), all, "{lines}");
    }
    assert_eq!(found("attachment_field: OBX.1.5[3]", &repetitions), Ok(vec![other]));
    assert_eq!(found(SEARCH, &repetitions), Ok(vec![PDF.to_vec()]));
}

#[test]
fn a_path_below_the_field_or_to_another_segment_is_followed() {
    let data = base64(PDF);
    for (path, segments) in [
        ("OBX.1.5.5", format!("OBX|1|ED|R||^application^pdf^Base64^{data}\r")),
        ("OBX.1.5.5.2", format!("OBX|1|ED|R||^application^pdf^Base64^x&{data}\r")),
        ("OBX.1.5.5.*", format!("OBX|1|ED|R||^application^pdf^Base64^{data}\r")),
        ("ZDS.2.3", format!("ZDS|1\rZDS|2||{data}\r")),
        ("TXA.1.12.1", format!("TXA|1|||||||||||{data}\r")),
        ("NTE.*.3", format!("NTE|1||{}\rNTE|2||{}\r", &data[..50], &data[50..])),
    ] {
        assert_eq!(found(&format!("attachment_field: {path}"), &segments), Ok(vec![PDF.to_vec()]), "{path}");
    }
}

#[test]
fn more_documents_than_a_message_may_have_are_refused() {
    let rows = format!("OBX|1|ED|||{}\r", base64(b"%PDF-")).repeat(ATTACHMENTS_MAX + 1);
    assert_eq!(found(EVERY, &rows).unwrap_err(), "more than 1000 PDFs at attachment_field OBX.*.5");
    assert_eq!(found(SEARCH, &rows), Ok(vec![b"%PDF-".to_vec()]));
}

#[test]
fn a_document_of_more_pieces_than_sense_does_not_decode() {
    let shreds = format!("OBX|1|ED|||{}{}\r", &base64(PDF)[..80], "~+".repeat(3000));
    assert!(found(EVERY, &shreds).unwrap_err().contains("does not decode"));
    let behind = format!("OBX|1|ED|||{}{}\r", base64(PDF), "~+".repeat(3000));
    assert_eq!(found(EVERY, &behind), Ok(vec![PDF.to_vec()]));
    let lines: Vec<String> = (0..5000).map(|n| format!("OBX|{n}|TX|R||{}\r", "+/".repeat(38))).collect();
    let rows = format!("OBX|1|TX|R||{}\r{}", &base64(PDF)[..76], lines.concat());
    assert_eq!(found(EVERY, &rows).unwrap()[0].len(), 5001 * 57);
}

// Text.

fn text(lines: &str, segments: &str) -> Result<String, String> {
    let found = attachments(&format!("attachment_format: text\n{lines}"), segments)?;
    let [attachment] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(attachment.suffix, ".txt");
    Ok(String::from_utf8(attachment.bytes.clone()).unwrap())
}

#[test]
fn text_is_one_line_a_row_or_repetition() {
    let rows = "OBX|1|TX|||REPORT\rOBX|2|TX|||\rOBX|3|NM|||7\rOBX|4|ST|||Größe \\T\\ Länge~second\rOBX|5|TX\r\
                OBX|6|FT|||last\rOBX|7|ED|||^image^jpeg^Base64^AAAA\r";
    let report = "REPORT\n\nGröße & Länge\nsecond\n\nlast";
    for lines in [SEARCH, EVERY, "attachment_field: OBX.*.5[*]"] {
        assert_eq!(text(lines, rows), Ok(report.to_owned()), "{lines}");
    }
    assert_eq!(text("attachment_field: OBX.4.5", rows), Ok("Größe & Länge\nsecond".to_owned()));
    assert_eq!(text("attachment_field: OBX.4.5[2]", rows), Ok("second".to_owned()));
    assert_eq!(text("attachment_field: OBX.3.5", rows), Ok("7".to_owned()));
    assert_eq!(text("attachment_field: NTE.*.3", "NTE|1||a\rNTE|2||b\r"), Ok("a\nb".to_owned()));
}

#[test]
fn formatting_is_rendered() {
    let rows = "OBX|1|FT|R||one\\.br\\two \\H\\high\\N\\\\.br\\\\.br\\four\r";
    assert_eq!(text(SEARCH, rows), Ok("one\ntwo high\n\nfour".to_owned()));
}

#[test]
fn a_text_may_be_data() {
    let html = "<p>Größe</p>\r\n";
    let rows = format!("OBX|1|NM|||7\rOBX|2|ED|R||^TEXT^html^Base64^{}\r", base64(html.as_bytes()));
    for lines in [SEARCH, EVERY, "attachment_field: OBX.2.5"] {
        assert_eq!(text(lines, &rows), Ok(html.to_owned()), "{lines}");
    }
    let latin = format!("OBX|1|ED|R||^TEXT^plain^Base64^{}\r", base64(b"Gr\xf6\xdfe"));
    let as_it_came = attachments("attachment_format: text", &latin).unwrap().remove(0).bytes;
    assert_eq!(as_it_came, b"Gr\xf6\xdfe");
    // Beside text it is another document.
    assert_eq!(text(SEARCH, &format!("{rows}OBX|3|TX|||text\r")), Ok("text".to_owned()));
}

#[test]
fn a_message_without_text_says_so() {
    let image = format!("OBX|1|ED|R||^image^jpeg^Base64^{}\rOBX|2|TX|||\rOBX|3|TX|||\"\"\r", base64(JPEG));
    assert_eq!(text(SEARCH, &image).unwrap_err(), "no text found in any OBX of type TX, FT or ST");
    assert_eq!(text("attachment_field: OBX.1.5", &image).unwrap_err(), "no text at attachment_field OBX.1.5");
}

// The corpus.

/// The corpus beside the repository; `None`, and a line that says so, where it is absent.
fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if folder.join("hl7/oracle.json").exists() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no corpus at {}", folder.display());
    None
}

/// Name, text, and the attachments the oracle knows of.
fn messages(corpus: &Path) -> Vec<(String, String, Vec<serde_json::Value>)> {
    let folder = corpus.join("hl7");
    let oracle: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("oracle.json")).unwrap()).unwrap();
    let mut found = Vec::new();
    for (name, entry) in oracle["files"].as_object().unwrap() {
        let [message] = entry["messages"].as_array().unwrap().as_slice() else { continue };
        let bytes = fs::read(folder.join(name)).unwrap();
        let encoding = config_encoding(entry["decoded_as"].as_str().unwrap());
        let text = hl7::charset::decode(&bytes, encoding).text.into_owned();
        let attachments = message["attachments"].as_array().cloned().unwrap_or_default();
        found.push((name.clone(), text, attachments));
    }
    assert!(found.len() > 300, "the corpus has shrunk");
    found
}

fn config_encoding(label: &str) -> hl7::charset::Encoding {
    let is_latin1 = label.starts_with("latin-1");
    hl7::charset::Encoding::from_label(if is_latin1 { "latin-1" } else { "utf-8" }).unwrap()
}

#[test]
fn every_document_of_the_corpus_is_what_the_oracle_decoded() {
    let Some(corpus) = corpus() else { return };
    let (mut pdfs, mut texts) = (0, 0);
    for (name, text, attachments) in messages(&corpus) {
        for attachment in attachments.iter().filter(|a| a["base64_strict"] == true) {
            let Some(hash) = attachment["decoded_sha256"].as_str() else { continue };
            let is_pdf = attachment["decoded_magic"] == "pdf";
            let format = if is_pdf { "pdf" } else { "text" };
            let path = format!("OBX.{}.5", attachment["obx_occurrence"]);
            let lines = format!("attachment_format: {format}\nattachment_field: {path}");
            let message = Message::parse(&text).unwrap();
            let found = find(&message, &channel(&lines)).unwrap_or_else(|e| panic!("{name} {path}: {e}"));
            assert_eq!(found.len(), 1, "{name} {path}");
            assert_eq!(found[0].bytes.len() as u64, attachment["decoded_bytes"], "{name} {path}");
            let found_hash: String =
                Sha256::digest(&found[0].bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(found_hash, hash, "{name} {path}");
            *(if is_pdf { &mut pdfs } else { &mut texts }) += 1;
        }
    }
    eprintln!("{pdfs} PDFs, {texts} texts");
    assert!(pdfs + texts >= 30);
}

#[test]
fn every_ed_of_the_corpus_gives_the_pdf_that_is_put_into_it() {
    let Some(corpus) = corpus() else { return };
    let mut pdfs: Vec<PathBuf> =
        fs::read_dir(corpus.join("pdf")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pdfs.retain(|path| path.extension().is_some_and(|e| e == "pdf"));
    pdfs.sort();
    let mut pdfs = pdfs.iter().map(|path| fs::read(path).unwrap()).filter(|bytes| {
        let start = &bytes[..bytes.len().min(1028)];
        start.windows(5).any(|w| w == b"%PDF-")
    });
    let mut pdfs = std::iter::from_fn(|| pdfs.next()).collect::<Vec<_>>().into_iter().cycle();
    let mut count = 0;
    for (name, text, attachments) in messages(&corpus) {
        let eds: Vec<_> = attachments.iter().filter(|a| a["value_type"] == "ED").collect();
        for attachment in &eds {
            // Of a PDF without an end nothing tells that data behind it, declared as it is, does not go on with it.
            let pdf = pdfs.find(|pdf| eds.len() == 1 || pdf.trim_ascii_end().ends_with(b"%%EOF")).unwrap();
            let n = usize::try_from(attachment["obx_occurrence"].as_u64().unwrap()).unwrap();
            let filled = with_data(&text, n, &base64(&pdf));
            let message = Message::parse(&filled).unwrap();
            for lines in ["mapping: {}".to_owned(), format!("attachment_field: OBX.{n}.5"), EVERY.to_owned()]
            {
                let found = find(&message, &channel(&lines));
                let found = found.unwrap_or_else(|e| panic!("{name} {n} {lines}: {e}"));
                assert_eq!(found.len(), 1, "{name} {n} {lines}");
                assert!(found[0].bytes == pdf, "{name} {n} {lines}");
            }
            count += 1;
        }
    }
    eprintln!("{count} documents");
    assert!(count >= 40);
}

/// The message with other data in component 5 of its n-th OBX-5.
fn with_data(text: &str, n: usize, data: &str) -> String {
    let mut seen = 0;
    let segments = text.split_inclusive(['\r', '\n']).map(|segment| {
        let mut fields: Vec<String> = segment.split('|').map(str::to_owned).collect();
        if fields[0].trim() == "OBX" {
            seen += 1;
            if seen == n {
                let mut components: Vec<&str> = fields[5].split('^').collect();
                components.resize(4, "");
                let end = if fields.len() == 6 && segment.ends_with(['\r', '\n']) { "\r" } else { "" };
                fields[5] = format!("{}^{data}{end}", components.join("^"));
            }
        }
        fields.join("|")
    });
    segments.collect()
}
