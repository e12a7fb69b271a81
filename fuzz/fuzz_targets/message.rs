//! Header, acknowledgment and message over any bytes: nothing panics, and what was read reads back.
#![no_main]

use hl7::ack::{self, Refusal};
use hl7::charset::{self, Encoding};
use hl7::header::{self, Header};
use hl7::message::Message;
use libfuzzer_sys::fuzz_target;

const ENCODINGS: [&str; 8] =
    ["utf-8", "latin-1", "auto", "shift_jis", "iso-2022-jp", "gb18030", "utf-16", "utf-32-be"];

fuzz_target!(|data: &[u8]| {
    let [choice, body @ ..] = data else { return };
    let label = ENCODINGS[usize::from(*choice) % ENCODINGS.len()];
    let encoding = Encoding::from_label(label).expect("the label is one");

    match charset::transcode_header(body, encoding) {
        Ok(readable) => answer(&readable, encoding),
        Err(_) => drop(ack::refuse(None, &Refusal::NOT_HL7, "ID", "TIME")),
    }
    if let Ok(header) = Header::parse(body) {
        let fields: Vec<&[u8]> = (2..=60).map(|n| header.field(n)).collect();
        assert!(fields.iter().map(|field| field.len()).sum::<usize>() <= body.len());
    }
    ack::read(body);

    let decoded = charset::decode(body, encoding);
    let Ok(message) = Message::parse(&decoded.text) else { return };
    for (path, value) in message.walk().chain(message.walk_repetitions()) {
        assert_eq!(message.raw(&path), Some(value), "{path}");
        message.text(&path);
        let again = path.to_string().parse().expect("a path that was written is one");
        assert_eq!(path, again);
    }
});

fn answer(readable: &charset::Readable<'_>, encoding: Encoding) {
    let Ok(header) = readable.header() else { return };
    header::event_of(readable.bytes(), &header);
    let accepted = ack::accept(&header, "ID", "TIME");
    let found = ack::read(&accepted).expect("an acknowledgment reads back");
    assert!(matches!(found.code.as_str(), "AA" | "CA"));
    ack::refuse(Some(&header), &Refusal::INTERNAL, "ID", "TIME");
    // Characters that hide delimiters hide them in the answer too, where they are whole and no switch between sets is
    // about (MSH-2 has the escape character): without MSH-18, which the answer has only sometimes, those are other bytes.
    let switches =
        readable.bytes().iter().skip(8).any(|b| matches!(b, 0x1B | b'\\')) || encoding == Encoding::Auto;
    if !switches
        && charset::decode(readable.bytes(), encoding).undecodable == 0
        && let Ok(answered) = Header::parse_in(&accepted, encoding)
    {
        assert_eq!(answered.control_id(), b"ID");
    }
    readable.answer(accepted);
}
