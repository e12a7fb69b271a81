//! From a message to its metadata: the values that the channel's mapping names. Pure.

use config::{Channel, Mapping};
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
        metadata.values.push((mapping.name.clone(), value));
    }
    Ok(metadata)
}

/// The first value at a path, as text; `None` where there is none or it is empty.
pub fn text_at(message: &Message<'_>, path: &FieldPath) -> Option<String> {
    message.text(path).filter(|text| !text.is_empty()).map(|text| text.into_owned())
}

fn value_of(message: &Message<'_>, mapping: &Mapping, separator: &str) -> Result<Option<String>, String> {
    let mut found = false;
    let mut parts = Vec::new();
    for path in &mapping.paths {
        for (raw, text) in message.raw_all(path).into_iter().zip(message.text_all(path)) {
            // HL7's null (`""`) is found, and empty.
            found |= !raw.is_empty();
            if !text.is_empty() {
                parts.push(text);
            }
        }
    }
    if !found {
        return Ok(None);
    }
    let joined = parts.join(separator);
    match &mapping.replace {
        None => Ok(Some(joined)),
        Some(replace) => match replace.pattern.replace_all(&joined, &replace.with) {
            Ok(value) => Ok(Some(value.into_owned())),
            Err(fault) => Err(format!("custom_regex of mapping {:?}: {fault}", mapping.name)),
        },
    }
}
