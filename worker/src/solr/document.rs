//! A message as a document. Pure.
//!
//! Only fields whose ending says their type (`_s`, `_ss`, `_dt`): a Solr that guesses types takes them from the first
//! value it sees, and refuses later ones for good.

use crate::extract::{Metadata, type_and_event};
use hl7::escape::unescape;
use hl7::message::Message;
use journal::MessageId;
use serde_json::{Map, Value};

/// Bytes of a value that Solr can index as a term; 32,766 would be too many by one.
const VALUE_BYTES_MAX: usize = 32_000;
/// Values of one document: an ORU of 5,000 OBX has some 50,000, a hostile one of 10 MiB has five million.
const VALUES_MAX: usize = 100_000;
/// HL7's explicit null.
const NULL: &str = "\"\"";

/// What a document is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The message's id.
    pub id: MessageId,
    /// The channel's name.
    pub channel: &'a str,
    /// MSH-10.
    pub control_id: &'a str,
    /// When it came.
    pub received: &'a jiff::Zoned,
    /// Who sent it.
    pub peer: &'a str,
    /// The message.
    pub message: &'a Message<'a>,
    /// Its mapped values.
    pub metadata: &'a Metadata,
    /// Segments that are indexed.
    pub segments: &'a [String],
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The whole of it.
    pub json: String,
}

impl Document {
    /// Whether it has a field of that name.
    pub(super) fn has_field(&self, name: &str) -> bool {
        let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        // Inside of a value a quote would be escaped.
        !name.is_empty() && name.bytes().all(sound) && self.json.contains(&format!("\"{name}\":"))
    }
}

/// Makes the document of a message.
pub fn document(facts: &Facts<'_>) -> Document {
    let (code, event) = type_and_event(facts.message);
    let message_type = if event.is_empty() { code } else { format!("{code}^{event}") };
    let mut fields = Map::new();
    let mut set = |name: &str, value: &str| fields.insert(name.to_owned(), bounded(value));
    set("id", &facts.id.to_string());
    set("channel_s", facts.channel);
    set("type_s", &message_type);
    set("control_id_s", facts.control_id);
    set("received_dt", &facts.received.timestamp().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
    set("peer_s", facts.peer);
    for (name, value) in facts.metadata.iter() {
        // A mapping that has the name of one of the fields above was given it on purpose.
        if let Some(value) = value {
            set(&format!("{name}_s"), value);
        }
    }
    let left_out = segments(&mut fields, facts);
    if left_out > 0 {
        fields.insert("left_out_s".to_owned(), format!("{left_out} values").into());
    }
    Document { json: Value::Object(fields).to_string() }
}

/// The raw segments as `<SEG>_ss` and every value at its lowest level as `<SEG>_<field>_ss`; how many had no room.
fn segments(fields: &mut Map<String, Value>, facts: &Facts<'_>) -> usize {
    let message = facts.message;
    let wanted = |name: &str| facts.segments.iter().any(|segment| segment == name);
    let (mut room, mut left_out) = (VALUES_MAX, 0);
    let mut push = |name: String, value: &str| {
        if room == 0 {
            left_out += 1;
            return;
        }
        room -= 1;
        if let Value::Array(values) = fields.entry(name).or_insert(Value::Array(Vec::new())) {
            values.push(bounded(value));
        }
    };
    for segment in message.segments().iter().filter(|segment| wanted(segment.name)) {
        push(format!("{}_ss", segment.name), segment.raw);
    }
    for (path, raw) in message.walk() {
        let declares_delimiters = path.segment() == "MSH" && path.field() <= 2;
        if wanted(path.segment()) && !declares_delimiters && raw != NULL {
            let text = unescape(raw, message.delimiters());
            push(format!("{}_{}_ss", path.segment(), path.field()), &text);
        }
    }
    left_out
}

fn bounded(value: &str) -> Value {
    match value.len() > VALUE_BYTES_MAX {
        true => format!("[{} bytes]", value.len()).into(),
        false => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract;
    use crate::testing::settings;

    fn of(lines: &str, segments: &str) -> Value {
        let settings = settings(lines);
        let text = format!("MSH|^~\\&|A|B|C|D|20260101||ORU^R01|M1|P|2.5\r{segments}");
        let message = Message::parse(&text).unwrap();
        let metadata = extract::extract(&message, &settings.channel).unwrap();
        let received: jiff::Zoned = "2026-01-02T03:04:05.678901+01:00[+01:00]".parse().unwrap();
        let document = document(&Facts {
            id: MessageId::new(5, 6),
            channel: "lab",
            control_id: "M1",
            received: &received,
            peer: "10.0.0.1:4711",
            message: &message,
            metadata: &metadata,
            segments: &settings.channel.solr_segments,
        });
        serde_json::from_str(&document.json).unwrap()
    }

    #[test]
    fn a_document_holds_what_the_reference_says() {
        let lines = "mapping: { name: [PID.1.5.1, PID.1.5.2], nobody: PID.1.19 }\nmapping_ignore: [nobody]\n\
                     solr_segments: [PID, ZDS]";
        let found = of(lines, "PID|1||4711^^^A&1&ISO~222||Ey\\T\\Co^Eva^\"\"\rNK1|1|X\rZDS|1.2.3\rZDS|\r");
        let expected = serde_json::json!({
            "id": MessageId::new(5, 6).to_string(),
            "channel_s": "lab", "type_s": "ORU^R01", "control_id_s": "M1",
            "received_dt": "2026-01-02T02:04:05.678Z", "peer_s": "10.0.0.1:4711",
            "name_s": "Ey&Co Eva",
            "PID_ss": ["PID|1||4711^^^A&1&ISO~222||Ey\\T\\Co^Eva^\"\""],
            "PID_1_ss": ["1"], "PID_3_ss": ["4711", "A", "1", "ISO", "222"], "PID_5_ss": ["Ey&Co", "Eva"],
            "ZDS_ss": ["ZDS|1.2.3", "ZDS|"], "ZDS_1_ss": ["1.2.3"],
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_value_that_solr_would_refuse_for_its_length_is_replaced() {
        let found = of(
            "mapping: { v: PID.1.5 }\nsolr_segments: [PID]",
            &format!("PID|1||||{}\r", "é".repeat(16_001)),
        );
        assert_eq!(found["v_s"], "[32002 bytes]");
        assert_eq!(found["PID_5_ss"], serde_json::json!(["[32002 bytes]"]));
        assert_eq!(found["PID_ss"], serde_json::json!(["[32011 bytes]"]));
        let fits = of("mapping: { v: PID.1.5 }", &format!("PID|1||||{}\r", "x".repeat(32_000)));
        assert_eq!(fits["v_s"].as_str().unwrap().len(), 32_000);
    }

    #[test]
    fn a_message_of_millions_of_values_costs_no_more_than_the_largest_real_one() {
        let found = of("solr_segments: [OBX]", &"OBX|a^b^c^d\r".repeat(30_000));
        assert_eq!(found["OBX_1_ss"].as_array().unwrap().len(), 70_000);
        assert_eq!(found["left_out_s"], "50000 values");
    }

    #[test]
    fn every_field_says_its_type_by_its_ending() {
        let found = of("mapping: { name: PID.1.5 }\nsolr_segments: [MSH, PID]", "PID|1||||X\r");
        for name in found.as_object().unwrap().keys() {
            assert!(name == "id" || ["_s", "_ss", "_dt"].iter().any(|end| name.ends_with(end)), "{name}");
        }
        assert!(found.get("MSH_1_ss").is_none() && found["MSH_9_ss"] == serde_json::json!(["ORU", "R01"]));
    }
}
