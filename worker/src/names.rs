//! Names of the files that steps write: from the message alone, so that a retry writes the same name, and safe whatever
//! the message holds.

use journal::MessageId;

/// Longest part of a name, in bytes.
const PART_BYTES_MAX: usize = 64;

/// A value from a message as part of a file name: `A-Z a-z 0-9 . _ -` stay, every other character becomes `_`; at most
/// 64 bytes; never leading dots, so that no value leaves its folder or hides its file. Empty where nothing is left.
pub fn part(value: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    value.trim().chars().map(safe).skip_while(|c| *c == '.').take(PART_BYTES_MAX).collect()
}

/// Where a message's files are named from.
#[derive(Clone, Debug)]
pub struct NameParts {
    /// Our own id, which stands in where the control id leaves nothing.
    pub message_id: MessageId,
    /// Time of receipt in local time, `%Y%m%dT%H%M%S.%6f`.
    pub time: String,
    /// MSH-10.
    pub control_id: String,
    /// The value at `patient_id_field`.
    pub patient_id: Option<String>,
    /// The value at `accession_number_field`.
    pub accession_number: Option<String>,
}

impl NameParts {
    /// `TIME_CONTROLID[_PATIENT][_ACCESSION]`, without the suffix `.hl7`.
    pub fn message_stem(&self) -> String {
        let mut stem = self.time.clone();
        push_part(&mut stem, &self.control_part());
        for value in [&self.patient_id, &self.accession_number].into_iter().flatten() {
            push_part(&mut stem, value);
        }
        stem
    }

    /// `[PATIENT_][ACCESSION_]CONTROLID[_N]`, without a suffix. `number` counts the message's attachments from 1 and is
    /// `None` for an only one.
    pub fn attachment_stem(&self, number: Option<usize>) -> String {
        let mut stem = String::new();
        for value in [&self.patient_id, &self.accession_number].into_iter().flatten() {
            push_part(&mut stem, value);
        }
        push_part(&mut stem, &self.control_part());
        if let Some(number) = number {
            push_part(&mut stem, &number.to_string());
        }
        stem
    }

    /// `CONTROLID`, without the suffix `.json`: a credential task.
    pub fn task_stem(&self) -> String {
        self.control_part()
    }

    fn control_part(&self) -> String {
        let part = part(&self.control_id);
        if part.is_empty() { self.message_id.to_string() } else { part }
    }
}

/// Names tried for one file.
pub const NAMES_MAX: usize = 10;

/// The names of a file in the order they are tried: its own; with the message id, where that is taken by other bytes;
/// with a number too. From the message alone, so that a retry finds what it wrote.
pub fn candidates(stem: &str, suffix: &str, id: MessageId) -> impl Iterator<Item = String> {
    (0..NAMES_MAX).map(move |n| match n {
        0 => format!("{stem}{suffix}"),
        1 => format!("{}{suffix}", with_message_id(stem, id)),
        n => format!("{}_{n}{suffix}", with_message_id(stem, id)),
    })
}

/// The name a file gets when its own is taken by another message's.
pub fn with_message_id(stem: &str, id: MessageId) -> String {
    format!("{stem}_{id}")
}

fn push_part(stem: &mut String, value: &str) {
    let part = part(value);
    if part.is_empty() {
        return;
    }
    if !stem.is_empty() {
        stem.push('_');
    }
    stem.push_str(&part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_value_stays_inside_its_folder() {
        for (value, expected) in [
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", ""),
            (".hidden", "hidden"),
            ("a/b\0c%2f", "a_b_c_2f"),
            ("Müller ", "M_ller"),
            ("a\u{202e}b", "a_b"),
        ] {
            assert_eq!(part(value), expected, "{value:?}");
        }
        assert_eq!(part(&"x".repeat(300)).len(), 64);
    }

    #[test]
    fn names_follow_the_reference() {
        let mut parts = NameParts {
            message_id: MessageId::new(0, 0),
            time: "20260102T030405.000006".into(),
            control_id: "MSG00001".into(),
            patient_id: Some("4711".into()),
            accession_number: Some("A-1".into()),
        };
        assert_eq!(parts.message_stem(), "20260102T030405.000006_MSG00001_4711_A-1");
        assert_eq!(parts.attachment_stem(None), "4711_A-1_MSG00001");
        assert_eq!(parts.attachment_stem(Some(2)), "4711_A-1_MSG00001_2");
        parts.patient_id = None;
        parts.accession_number = Some("//".into());
        assert_eq!(parts.message_stem(), "20260102T030405.000006_MSG00001___");
        parts.accession_number = Some("..".into());
        assert_eq!(parts.attachment_stem(None), "MSG00001");
    }
}
