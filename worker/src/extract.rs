//! From a message to its metadata: the values that the channel's mapping names. Pure.

use config::{Channel, Mapping, Replacement};
use hl7::message::Message;
use hl7::path::FieldPath;

/// Names → values, in the order of the mapping; `None` where nothing was found and the channel allows that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    values: Vec<(String, Option<String>)>,
}

impl Metadata {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// Adds a name with its value.
    pub fn push(&mut self, name: &str, value: Option<String>) {
        self.values.push((name.to_owned(), value));
    }

    /// The value of a name; `None` where nothing was found for it, or nothing has that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).and_then(|(_, value)| value)
    }
}

/// Reads what the mapping names.
///
/// # Errors
/// A reason that names the mapping: nothing found where something must be, or a pattern that gave up.
pub fn extract(message: &Message<'_>, channel: &Channel) -> Result<Metadata, String> {
    let mut metadata = Metadata::default();
    for mapping in &channel.mapping {
        let value = value_of(message, mapping, &channel.mapping_separator)?;
        if value.is_none() && !mapping.optional {
            let paths: Vec<String> = mapping.paths.iter().map(FieldPath::to_string).collect();
            return Err(format!(
                "mapping {:?} found nothing at {}. Name it in mapping_ignore if that is all right",
                mapping.name,
                paths.join(", ")
            ));
        }
        metadata.push(&mapping.name, value);
    }
    Ok(metadata)
}

/// Message type and trigger event: MSH-9.1 and MSH-9.2, or EVN-1 where the sender gives no MSH-9.2.
pub fn type_and_event(message: &Message<'_>) -> (String, String) {
    let at = |text: &str| text_at(message, &text.parse().expect("a path written here is right"));
    (at("MSH.1.9.1").unwrap_or_default(), at("MSH.1.9.2").or_else(|| at("EVN.1.1")).unwrap_or_default())
}

/// The first value at a path, as text; `None` where there is none or it is empty.
pub fn text_at(message: &Message<'_>, path: &FieldPath) -> Option<String> {
    message.text(path).filter(|text| !text.is_empty()).map(|text| text.into_owned())
}

fn value_of(message: &Message<'_>, mapping: &Mapping, separator: &str) -> Result<Option<String>, String> {
    let Some(joined) = joined(message, &mapping.paths, separator) else { return Ok(None) };
    replaced(joined, &mapping.name, mapping.replace.as_ref()).map(Some)
}

/// What the paths find, joined; `None` where all is absent. HL7's null (`""`) is found, and empty.
pub fn joined(message: &Message<'_>, paths: &[FieldPath], separator: &str) -> Option<String> {
    let mut found = false;
    let mut parts = Vec::new();
    for path in paths {
        for (raw, text) in message.raw_all(path).into_iter().zip(message.text_all(path)) {
            found |= !raw.is_empty();
            if !text.is_empty() {
                parts.push(text);
            }
        }
    }
    found.then(|| parts.join(separator))
}

/// A value after the `custom_regex` of the mapping of that name.
///
/// # Errors
/// The pattern gave up on the value.
pub fn replaced(value: String, name: &str, replace: Option<&Replacement>) -> Result<String, String> {
    let Some(replace) = replace else { return Ok(value) };
    match replace.pattern.replace_all(&value, &replace.with) {
        Ok(value) => Ok(value.into_owned()),
        Err(fault) => Err(format!("custom_regex of mapping {name:?}: {fault}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    const TEXT: &str = "MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\r\
        PID|1||4711^^^X||M\\T\\S^Eva^\"\"|||F|||||+49 (0) 170-12\r";

    fn mapped(lines: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let settings = settings(lines);
        let message = Message::parse(TEXT).unwrap();
        let metadata = extract(&message, &settings.channel)?;
        Ok(metadata.iter().map(|(n, v)| (n.to_owned(), v.map(str::to_owned))).collect())
    }

    fn one(lines: &str) -> Option<String> {
        mapped(lines).unwrap().remove(0).1
    }

    #[test]
    fn several_paths_are_joined_and_empty_parts_left_out() {
        assert_eq!(one("mapping: { n: [PID.1.5.1, PID.1.5.3, PID.1.5.2] }").unwrap(), "M&S Eva");
        let lines = "mapping: { n: [PID.1.5.1, PID.1.5.2] }\nmapping_separator: \", \"";
        assert_eq!(one(lines).unwrap(), "M&S, Eva");
    }

    #[test]
    fn nothing_found_fails_unless_the_mapping_may_be_ignored() {
        let fault = mapped("mapping: { n: PID.1.19 }").unwrap_err();
        assert!(fault.starts_with("mapping \"n\" found nothing at PID.1.19"), "{fault}");
        assert_eq!(one("mapping: { n: PID.1.19 }\nmapping_ignore: [n]"), None);
    }

    #[test]
    fn the_null_of_hl7_is_found_and_empty() {
        assert_eq!(one("mapping: { n: PID.1.5.3 }").as_deref(), Some(""));
    }

    #[test]
    fn the_pattern_of_the_reference_keeps_a_leading_plus() {
        let lines = "mapping: { n: PID.1.13 }\ncustom_regex: { n: \"[^0-9+]|(?<!^)\\\\+\" }";
        assert_eq!(one(lines).unwrap(), "+49017012");
    }
}
