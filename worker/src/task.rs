//! What dfapi is told: the credential task of a patient, and a merge of two. Pure: JSON from the mapped values.

use crate::extract::Metadata;
use config::Mobile;
use journal::MessageId;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// What both begin with.
#[derive(Debug)]
pub struct Head<'a> {
    /// The message's id.
    pub id: MessageId,
    /// Its trigger event: `A01`.
    pub event: &'a str,
    /// The channel's name.
    pub channel: &'a str,
    /// When the message came, so that a retry says the same.
    pub received: &'a jiff::Zoned,
}

/// The credential task of a message.
///
/// # Errors
/// The pattern of `mobile` gave up on a value.
pub fn credentials(
    head: &Head<'_>,
    patient: &[(String, String)],
    appointment: &[(String, String)],
    mobile: Option<&Mobile>,
    metadata: &Metadata,
) -> Result<Vec<u8>, String> {
    #[derive(serde::Serialize)]
    struct Task<'a> {
        #[serde(flatten)]
        head: Begin<'a>,
        patient: Fields<'a>,
        appointment: Fields<'a>,
        mobile: Option<&'a str>,
    }
    let task = Task {
        head: begin(head),
        patient: Fields(patient, metadata),
        appointment: Fields(appointment, metadata),
        mobile: mobile.map_or(Ok(None), |mobile| number(mobile, metadata))?,
    };
    Ok(serde_json::to_vec(&task).expect("texts always serialise"))
}

/// One merge of a message: the patient with the prior id becomes the one with the surviving id.
pub fn merge(
    head: &Head<'_>,
    prior_patient_id: &str,
    patient_id: &str,
    patient: &[(String, String)],
    metadata: &Metadata,
) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Task<'a> {
        #[serde(flatten)]
        head: Begin<'a>,
        prior_patient_id: &'a str,
        patient_id: &'a str,
        patient: Fields<'a>,
    }
    let task = Task { head: begin(head), prior_patient_id, patient_id, patient: Fields(patient, metadata) };
    serde_json::to_vec(&task).expect("texts always serialise")
}

#[derive(serde::Serialize)]
struct Begin<'a> {
    id: String,
    event: &'a str,
    channel: &'a str,
    created: String,
}

fn begin<'a>(head: &Head<'a>) -> Begin<'a> {
    Begin {
        id: head.id.to_string(),
        event: head.event,
        channel: head.channel,
        created: head.received.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string(),
    }
}

/// Task field → variable, as an object of the variables' values; null where nothing was found.
struct Fields<'a>(&'a [(String, String)], &'a Metadata);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (field, variable) in self.0 {
            map.serialize_entry(field, &self.1.get(variable))?;
        }
        map.end()
    }
}

/// The first variable that is not empty and matches.
fn number<'a>(mobile: &Mobile, metadata: &'a Metadata) -> Result<Option<&'a str>, String> {
    for name in &mobile.fields {
        let Some(value) = metadata.get(name).filter(|value| !value.is_empty()) else { continue };
        match mobile.pattern.is_match(value) {
            Ok(true) => return Ok(Some(value)),
            Ok(false) => {}
            Err(fault) => return Err(format!("the pattern of mobile on variable {name:?}: {fault}")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract;
    use crate::testing::settings;
    use hl7::message::Message;

    const LINES: &str = "mapping: { patient_id: PID.1.3.1, name: PID.1.5.1, home: PID.1.13.1, work: PID.1.14.1, when: SCH.1.11.4 }\n\
        mapping_ignore: [home, work, when]\n\
        credentials_metadata: { surname: name, number: patient_id }\n\
        book_metadata: { start: when }\n\
        mobile: { fields: [home, work] }";

    fn task(lines: &str, home: &str, work: &str) -> Result<String, String> {
        let settings = settings(lines);
        let text = format!(
            "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|M1|P|2.5\rPID|1||4711||M\u{fc}ller\\T\\\"Co\"||||||||{home}|{work}\r"
        );
        let message = Message::parse(&text).unwrap();
        let metadata = extract::extract(&message, &settings.channel).unwrap();
        let received: jiff::Zoned = "2026-01-02T03:04:05.678901+01:00[+01:00]".parse().unwrap();
        let head = Head { id: MessageId::new(5, 6), event: "A01", channel: "adt", received: &received };
        let channel = &settings.channel;
        let (patient, appointment) = (&channel.credentials_metadata, &channel.book_metadata);
        credentials(&head, patient, appointment, channel.mobile.as_ref(), &metadata)
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_task_is_what_the_reference_says_in_the_order_of_the_file() {
        let expected = format!(
            "{{\"id\":\"{}\",\"event\":\"A01\",\"channel\":\"adt\",\"created\":\"2026-01-02T03:04:05.678901+01:00\",\
             \"patient\":{{\"surname\":\"M\u{fc}ller&\\\"Co\\\"\",\"number\":\"4711\"}},\"appointment\":{{\"start\":null}},\
             \"mobile\":\"0170 123456\"}}",
            MessageId::new(5, 6)
        );
        assert_eq!(task(LINES, "0170 123456", "").unwrap(), expected);
    }

    #[test]
    fn the_mobile_number_is_the_first_that_is_not_empty_and_matches() {
        let mobile = |home, work| {
            let task: serde_json::Value = serde_json::from_str(&task(LINES, home, work).unwrap()).unwrap();
            task["mobile"].as_str().map(str::to_owned)
        };
        assert_eq!(mobile("", "0170/123456").as_deref(), Some("0170/123456"));
        assert_eq!(mobile("none", "0170123456").as_deref(), Some("0170123456"));
        assert_eq!(mobile("12345", "n/a"), None);
        assert_eq!(mobile("\"\"", ""), None);
        let without = LINES.replace("mobile: { fields: [home, work] }", "");
        assert!(task(&without, "0170123456", "").unwrap().ends_with("\"mobile\":null}"));
    }

    #[test]
    fn a_pattern_that_gives_up_fails_the_task_without_quoting_the_value() {
        let lines = LINES.replace("[home, work] }", "[home], pattern: '(?=(a+)+b)' }");
        let fault = task(&lines, &"a".repeat(70_000), "").unwrap_err();
        assert!(
            fault.starts_with("the pattern of mobile on variable \"home\"") && !fault.contains("aaa"),
            "{fault}"
        );
    }

    #[test]
    fn a_merge_names_both_ids() {
        let received: jiff::Zoned = "2026-01-02T03:04:05+00:00[UTC]".parse().unwrap();
        let head = Head { id: MessageId::new(5, 6), event: "A34", channel: "adt", received: &received };
        let mut metadata = Metadata::default();
        metadata.push("name", Some("Eva".to_owned()));
        let fields = [("surname".to_owned(), "name".to_owned()), ("other".to_owned(), "nothing".to_owned())];
        let task: serde_json::Value =
            serde_json::from_slice(&merge(&head, "OLD", "NEW", &fields, &metadata)).unwrap();
        let expected = serde_json::json!({
            "id": MessageId::new(5, 6).to_string(), "event": "A34", "channel": "adt",
            "created": "2026-01-02T03:04:05.000000+00:00", "prior_patient_id": "OLD", "patient_id": "NEW",
            "patient": {"surname": "Eva", "other": null},
        });
        assert_eq!(task, expected);
    }
}
