//! Documents in a message: what is called a PDF begins as one, and none is longer than what it was read from.

#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/step/attachment/data.rs"]
mod data;
#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/step/attachment/document.rs"]
mod document;
#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/step/attachment/places.rs"]
mod places;
#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/step/attachment/report.rs"]
mod report;

use data::Reading;
use hl7::charset::Encoding;
use hl7::message::Message;
use hl7::path::FieldPath;

const PATHS: [&str; 4] = ["OBX.*.5", "OBX.1.5", "OBX.*.5.5", "ZPD.1.3"];
const ENCODINGS: [Encoding; 2] = [Encoding::Utf8, Encoding::Latin1];

pub(crate) fn fuzz(bytes: &[u8]) {
    let [choice, body @ ..] = bytes else { return };
    let encoding = ENCODINGS[usize::from(choice & 1)];
    let decoded = hl7::charset::decode(body, encoding);
    let Ok(message) = Message::parse(&decoded.text) else { return };
    let reading = Reading { delimiters: message.delimiters(), encoding };
    let path: FieldPath = PATHS[usize::from(choice >> 1 & 3)].parse().expect("the path is one");
    let parts = places::chosen(&message, &path).chain(places::beyond(&message, &path));
    for document in document::documents(parts, reading) {
        check(document.decode(&reading), decoded.text.len());
    }
    for document in document::documents(places::every(&message), reading) {
        check(document.decode(&reading), decoded.text.len());
    }
    for path in [Some(&path), None] {
        if let Some(text) = report::find(&message, path, &reading) {
            assert!(!text.trim_ascii().is_empty());
        }
    }
}

fn check(decoded: Option<Vec<u8>>, longest: usize) {
    let Some(bytes) = decoded else { return };
    assert!(bytes.len() <= longest, "{} bytes out of {longest}", bytes.len());
    let head = &bytes[..bytes.len().min(1024 + 5)];
    assert!(head.windows(5).any(|five| five == b"%PDF-"), "no PDF: {:?}", head.escape_ascii().to_string());
}
