//! Field paths: `SEG.n.FIELD[.COMPONENT[.SUBCOMPONENT]]`, all counted from 1.
//!
//! n chooses the n-th segment of that name, `*` every one. A repetition stands in brackets behind the field,
//! `PID.1.3[2].1`, the first where none is named, `[*]` for every one. `PID.1.5.1.*` is the whole component as it
//! stands. FIELD follows HL7's numbering, in which MSH-1 is the field separator.

use crate::segments::is_name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Highest field number; no HL7 segment comes near it.
pub const FIELD_MAX: u16 = 999;

/// Which of several: one, or every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// The n-th, from 1.
    Nth(u16),
    /// `*`
    Every,
}

/// What a path that goes below the component reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subcomponent {
    /// The n-th, from 1.
    Nth(u16),
    /// `*`: the whole component as it stands.
    Whole,
}

/// A place in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldPath {
    segment: [u8; 3],
    occurrence: Choice,
    field: u16,
    repetition: Choice,
    component: Option<u16>,
    subcomponent: Option<Subcomponent>,
}

impl FieldPath {
    /// A path to a field of the n-th segment of a name that is known to be one.
    pub(crate) fn to_field(segment: [u8; 3], occurrence: u16, field: u16, repetition: u16) -> FieldPath {
        FieldPath {
            segment,
            occurrence: Choice::Nth(occurrence),
            field,
            repetition: Choice::Nth(repetition),
            component: None,
            subcomponent: None,
        }
    }

    pub(crate) fn with_component(self, component: u16) -> FieldPath {
        FieldPath { component: Some(component), ..self }
    }

    pub(crate) fn with_subcomponent(self, subcomponent: u16) -> FieldPath {
        FieldPath { subcomponent: Some(Subcomponent::Nth(subcomponent)), ..self }
    }

    /// The same place in another segment of that name.
    #[must_use]
    pub fn with_occurrence(self, occurrence: Choice) -> FieldPath {
        FieldPath { occurrence, ..self }
    }

    /// The segment's name.
    pub fn segment(&self) -> &str {
        std::str::from_utf8(&self.segment).expect("a segment name is ASCII")
    }

    /// Whether a segment has the name that is meant.
    pub(crate) fn names(&self, segment: &str) -> bool {
        segment.as_bytes() == self.segment
    }

    /// Which segment of that name.
    pub fn occurrence(&self) -> Choice {
        self.occurrence
    }

    /// The field's number.
    pub fn field(&self) -> u16 {
        self.field
    }

    /// Which repetition of the field.
    pub fn repetition(&self) -> Choice {
        self.repetition
    }

    /// The component's number; `None` when the path stops at the field.
    pub fn component(&self) -> Option<u16> {
        self.component
    }

    /// What is read below the component; `None` when the path stops before.
    pub fn subcomponent(&self) -> Option<Subcomponent> {
        self.subcomponent
    }

    /// The value is read as it stands, escapes and all, also as text: the path ends in `.*`.
    pub fn is_raw(&self) -> bool {
        self.subcomponent == Some(Subcomponent::Whole)
    }

    /// The path can match more than one value.
    pub fn is_multiple(&self) -> bool {
        self.occurrence == Choice::Every || self.repetition == Choice::Every
    }
}

/// Why a text is no field path. `Display` gives both sentences on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathFault {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

impl std::error::Error for PathFault {}

const FORM: &str =
    "write SEG.n.FIELD, SEG.n.FIELD.COMPONENT or SEG.n.FIELD.COMPONENT.SUBCOMPONENT, such as PID.1.5.1";

impl FromStr for FieldPath {
    type Err = PathFault;

    fn from_str(text: &str) -> Result<FieldPath, PathFault> {
        let parts: Vec<&str> = text.split('.').collect();
        let [name, occurrence, field, below @ ..] = parts.as_slice() else {
            return Err(fault(format!("field path {text:?} has too few parts"), FORM));
        };
        if below.len() > 2 {
            return Err(fault(format!("field path {text:?} has too many parts"), FORM));
        }
        let segment = segment_name(name)?;
        let occurrence =
            choice(occurrence, "segment number", "count segments from 1, or write * for every one")?;
        let (field, repetition) = field_and_repetition(field)?;
        let component = below.first().map(|part| component(part)).transpose()?;
        let subcomponent = below.get(1).map(|part| subcomponent(part)).transpose()?;
        Ok(FieldPath { segment, occurrence, field, repetition, component, subcomponent })
    }
}

fn segment_name(name: &str) -> Result<[u8; 3], PathFault> {
    match <[u8; 3]>::try_from(name.as_bytes()) {
        Ok(segment) if is_name(&segment) => Ok(segment),
        _ => {
            let upper = name.to_ascii_uppercase();
            let hint = if is_name(upper.as_bytes()) { format!("write {upper}") } else { FORM.to_owned() };
            Err(fault(
                format!("segment name {name:?} is not a capital letter and two capital letters or digits"),
                hint,
            ))
        }
    }
}

fn field_and_repetition(part: &str) -> Result<(u16, Choice), PathFault> {
    let (field, repetition) = match part.split_once('[') {
        None => (part, Choice::Nth(1)),
        Some((field, rest)) => {
            let Some(inside) = rest.strip_suffix(']') else {
                return Err(fault(
                    format!("repetition in {part:?} is not closed"),
                    "write FIELD[n] for the n-th repetition, FIELD[*] for every one",
                ));
            };
            (field, choice(inside, "repetition", "count repetitions from 1, or write [*] for every one")?)
        }
    };
    let number = number(field, "field number", "count fields from 1 as HL7 does")?;
    if number > FIELD_MAX {
        return Err(fault(format!("field number {number} is over {FIELD_MAX}"), "count fields as HL7 does"));
    }
    Ok((number, repetition))
}

fn component(part: &str) -> Result<u16, PathFault> {
    if part == "*" {
        return Err(fault(
            "component \"*\" is no number".to_owned(),
            "stop at the field for all its components, or write COMPONENT.* for a whole component",
        ));
    }
    number(part, "component number", "count components from 1")
}

fn subcomponent(part: &str) -> Result<Subcomponent, PathFault> {
    match choice(
        part,
        "subcomponent number",
        "count subcomponents from 1, or write * for the whole component",
    )? {
        Choice::Nth(n) => Ok(Subcomponent::Nth(n)),
        Choice::Every => Ok(Subcomponent::Whole),
    }
}

fn choice(part: &str, what: &str, hint: &str) -> Result<Choice, PathFault> {
    if part == "*" { Ok(Choice::Every) } else { number(part, what, hint).map(Choice::Nth) }
}

fn number(part: &str, what: &str, hint: &str) -> Result<u16, PathFault> {
    if part.is_empty() {
        return Err(fault(format!("{what} is empty"), hint));
    }
    // `parse` alone would take a plus sign.
    if !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault(format!("{what} {part:?} is no number"), hint));
    }
    match part.parse() {
        Ok(0) => Err(fault(format!("{what} is 0"), hint)),
        Ok(n) => Ok(n),
        Err(_) => Err(fault(format!("{what} {part} is too large"), hint)),
    }
}

fn fault(what: String, hint: impl Into<String>) -> PathFault {
    PathFault { what, hint: hint.into() }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Nth(n) => n.fmt(f),
            Choice::Every => f.write_str("*"),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.segment(), self.occurrence, self.field)?;
        if self.repetition != Choice::Nth(1) {
            write!(f, "[{}]", self.repetition)?;
        }
        if let Some(component) = self.component {
            write!(f, ".{component}")?;
        }
        match self.subcomponent {
            Some(Subcomponent::Nth(n)) => write!(f, ".{n}"),
            Some(Subcomponent::Whole) => f.write_str(".*"),
            None => Ok(()),
        }
    }
}

impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FieldPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FieldPath, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault_of(text: &str) -> String {
        text.parse::<FieldPath>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_reads_and_writes_itself() {
        for text in [
            "PID.1.5",
            "PID.1.5.2",
            "PID.1.5.1.3",
            "PID.1.5.1.*",
            "OBX.*.5",
            "PID.1.3[2].1",
            "PID.2.3[*]",
            "ZA1.*.999[*].1.*",
            "MSH.1.1",
        ] {
            assert_eq!(text.parse::<FieldPath>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn first_repetition_is_the_one_no_bracket_names() {
        assert_eq!("PID.1.3[1].1".parse::<FieldPath>(), "PID.1.3.1".parse());
    }

    #[test]
    fn faults_say_what_is_wrong_and_what_is_right() {
        let name =
            "segment name \"pid\" is not a capital letter and two capital letters or digits; write PID";
        assert_eq!(fault_of("pid.1.3"), name);
        assert!(fault_of("PID.3").starts_with("field path \"PID.3\" has too few parts; write SEG.n.FIELD"));
        assert!(fault_of("PID.1.3.1.1.1").contains("too many parts"));
        assert!(fault_of("PIDX.1.3").contains("\"PIDX\""));
        assert!(fault_of("1ID.1.3").contains("\"1ID\""));
        assert_eq!(
            fault_of("PID.0.3"),
            "segment number is 0; count segments from 1, or write * for every one"
        );
        assert!(fault_of("PID.1.0").starts_with("field number is 0"));
        assert!(fault_of("PID.1.1000").starts_with("field number 1000 is over 999"));
        assert!(fault_of("PID.1.99999999").contains("too large"));
        assert!(fault_of("PID.1.3.").contains("component number is empty"));
        assert!(fault_of("PID.1.+3").contains("\"+3\" is no number"));
        assert!(fault_of("PID.1.3.*").contains("stop at the field"));
        assert!(fault_of("PID.1.3[0]").contains("repetition is 0"));
        assert!(fault_of("PID.1.3[2").contains("not closed"));
        assert!(fault_of("PID.1.3[2]x").contains("not closed"));
        assert!(fault_of("PID.1.*").contains("field number \"*\""));
        assert!(fault_of("").contains("too few parts"));
    }

    #[test]
    fn serialised_form_is_the_text() {
        let path: FieldPath = "PID.1.3[2].1".parse().unwrap();
        assert_eq!(serde_json::to_string(&path).unwrap(), "\"PID.1.3[2].1\"");
        assert_eq!(serde_json::from_str::<FieldPath>("\"PID.1.3[2].1\"").unwrap(), path);
        assert!(serde_json::from_str::<FieldPath>("\"pid.1.3\"").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}", like in "[A-Za-z0-9.*\\[\\]+é]{0,20}") {
            for text in [text, like] {
                if let Ok(path) = text.parse::<FieldPath>() {
                    prop_assert_eq!(path.to_string().parse::<FieldPath>(), Ok(path));
                }
            }
        }
    }
}
