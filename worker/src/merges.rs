//! Which patients a merge makes one: the pairs of prior and surviving id, in the order of the message. Pure.
//!
//! A merge changes rows that cannot be told apart afterwards, so whatever is in doubt (a PID without its MRG, an id that
//! is missing) is an error and nothing of the message is merged.

use crate::extract::{self, Metadata};
use config::{Channel, Mapping, Replacement};
use hl7::message::Message;
use hl7::path::{Choice, FieldPath};

/// The mapping that names the patient, where a channel has it.
pub const PATIENT_ID: &str = "patient_id";
/// The mapping that names the patient merged away.
pub const PRIOR_PATIENT_ID: &str = "prior_patient_id";
/// Pairs in one message; each is a call or a statement, and a message of 10 MiB has room for half a million.
const PAIRS_MAX: usize = 200;

/// One patient merged into another.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// The id merged away.
    pub prior: String,
    /// The id that stays.
    pub surviving: String,
    pair: Pair,
}

/// Which PID and which MRG of the message belong together, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    pid: u16,
    mrg: u16,
}

impl Merge {
    /// The message's first pair: its values are those of the mapping as it stands.
    pub fn is_first(&self) -> bool {
        self.pair == Pair { pid: 1, mrg: 1 }
    }

    /// The mapped values for this pair's patient. What stands outside of MSH, EVN, PID and MRG belongs to the first
    /// patient only and is left out for the others, never lent to them.
    ///
    /// # Errors
    /// A pattern that gave up on a value.
    pub fn metadata(&self, message: &Message<'_>, channel: &Channel) -> Result<Metadata, String> {
        let mut metadata = Metadata::default();
        for mapping in &channel.mapping {
            let shared = |path: &FieldPath| matches!(path.segment(), "MSH" | "EVN" | "PID" | "MRG");
            let paths: Vec<FieldPath> =
                mapping.paths.iter().filter(|p| shared(p)).map(|p| self.pair.path(p)).collect();
            let value = match extract::joined(message, &paths, &channel.mapping_separator) {
                Some(value) => Some(extract::replaced(value, &mapping.name, mapping.replace.as_ref())?),
                None => None,
            };
            metadata.push(&mapping.name, value);
        }
        Ok(metadata)
    }
}

/// The merges of a message; those of a patient with itself are left out.
///
/// # Errors
/// Why the message does not say who becomes whom; no id stands in it.
pub fn merges(message: &Message<'_>, channel: &Channel) -> Result<Vec<Merge>, String> {
    let ids = Ids::of(channel)?;
    let pairs = ids.pairs(message)?;
    if pairs.len() > PAIRS_MAX {
        return Err(format!("{} pairs to merge in one message, more than {PAIRS_MAX}", pairs.len()));
    }
    let mut merges = Vec::new();
    for (n, pair) in pairs.into_iter().enumerate() {
        let value = |side: &Side, what: &str| {
            let paths: Vec<FieldPath> = side.paths.iter().map(|p| pair.path(p)).collect();
            let found = extract::joined(message, &paths, &channel.mapping_separator).unwrap_or_default();
            let found = extract::replaced(found, &side.name, side.replace.as_ref())?;
            match found.is_empty() {
                true => Err(format!("no {what} patient id at {} for pair {}", texts(&paths), n + 1)),
                false => Ok(found),
            }
        };
        let surviving = value(&ids.surviving, "surviving")?;
        let prior = value(&ids.prior, "prior")?;
        if prior != surviving {
            merges.push(Merge { prior, surviving, pair });
        }
    }
    Ok(merges)
}

/// The paths of a mapping, or what holds without it.
pub fn mapped_paths(channel: &Channel, name: &str) -> Option<Vec<FieldPath>> {
    mapping(channel, name).map(|mapping| mapping.paths.clone())
}

/// Where the patient's id is: the mapping `patient_id`, else PID-3.1.
pub fn patient_paths(channel: &Channel) -> Vec<FieldPath> {
    mapped_paths(channel, PATIENT_ID).unwrap_or_else(|| vec![path("PID.1.3.1")])
}

/// Where the id merged away stands, by where the surviving one does: PID-3 → MRG-1, PID-2 → MRG-4, PID-4 → MRG-2,
/// PID-18 → MRG-3 (HL7 v2.5.1, 3.4.9). `None`: HL7 has no counterpart.
pub fn prior_of(patient: &FieldPath) -> Option<FieldPath> {
    let field = match (patient.segment(), patient.field()) {
        ("PID", 3) => 1,
        ("PID", 2) => 4,
        ("PID", 4) => 2,
        ("PID", 18) => 3,
        _ => return None,
    };
    let text = patient.to_string();
    let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
    let repetition = parts[2].find('[').map(|at| parts[2].split_off(at)).unwrap_or_default();
    parts[0] = "MRG".to_owned();
    parts[2] = format!("{field}{repetition}");
    Some(path(&parts.join(".")))
}

/// Where both ids of a pair are found.
struct Ids {
    surviving: Side,
    prior: Side,
}

/// Where one id is found, and what is made of it.
struct Side {
    name: String,
    paths: Vec<FieldPath>,
    replace: Option<Replacement>,
}

impl Ids {
    fn of(channel: &Channel) -> Result<Ids, String> {
        let side = |mapping: &Mapping| Side {
            name: mapping.name.clone(),
            paths: mapping.paths.clone(),
            replace: mapping.replace.clone(),
        };
        let surviving = mapping(channel, PATIENT_ID).map_or_else(
            || Side { name: PATIENT_ID.to_owned(), paths: patient_paths(channel), replace: None },
            side,
        );
        let prior = match mapping(channel, PRIOR_PATIENT_ID) {
            Some(mapping) => side(mapping),
            None => {
                let paths: Option<Vec<FieldPath>> = surviving.paths.iter().map(prior_of).collect();
                let paths = paths.ok_or_else(|| {
                    format!(
                        "MRG has no counterpart of {}. Map {PRIOR_PATIENT_ID} to where the prior id is",
                        texts(&surviving.paths)
                    )
                })?;
                // Both are compared with what earlier messages wrote: the same pattern makes them the same text.
                Side { name: PATIENT_ID.to_owned(), paths, replace: surviving.replace.clone() }
            }
        };
        Ok(Ids { surviving, prior })
    }

    /// Each MRG with the PID before it; or each PID, where no id stands in an MRG.
    fn pairs(&self, message: &Message<'_>) -> Result<Vec<Pair>, String> {
        let all = || self.surviving.paths.iter().chain(&self.prior.paths);
        let pairs = if all().any(|path| path.segment() == "MRG") {
            pairs_by_mrg(message)?
        } else {
            let pids = message.segments().iter().filter(|s| s.name == "PID").count();
            let pids = u16::try_from(pids.max(1)).unwrap_or(u16::MAX);
            (1..=pids).map(|n| Pair { pid: n, mrg: n }).collect()
        };
        match all().find(|path| !matches!(path.segment(), "PID" | "MRG")) {
            Some(path) if pairs.len() > 1 => {
                Err(format!("{} pairs to merge, and {path} does not say which of them it is of", pairs.len()))
            }
            _ => Ok(pairs),
        }
    }
}

fn pairs_by_mrg(message: &Message<'_>) -> Result<Vec<Pair>, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    let (mut pid, mut mrg) = (0_u16, 0_u16);
    let lone = |pid: u16| format!("PID number {pid} is followed by no MRG");
    for segment in message.segments() {
        match segment.name {
            "PID" => {
                if pid > 0 && pairs.last().is_none_or(|pair| pair.pid != pid) {
                    return Err(lone(pid));
                }
                pid = pid.saturating_add(1);
            }
            "MRG" if pid == 0 => return Err("an MRG stands before the first PID".to_owned()),
            "MRG" => {
                mrg = mrg.saturating_add(1);
                pairs.push(Pair { pid, mrg });
            }
            _ => {}
        }
    }
    match pairs.last() {
        None => Err("there is no MRG segment".to_owned()),
        Some(last) if last.pid != pid => Err(lone(pid)),
        Some(_) => Ok(pairs),
    }
}

impl Pair {
    /// A path of the mapping, which is written for the first pair, as it is for this one.
    fn path(self, path: &FieldPath) -> FieldPath {
        let own = match path.segment() {
            "PID" => self.pid,
            "MRG" => self.mrg,
            _ => return *path,
        };
        match path.occurrence() {
            Choice::Nth(n) => path.with_occurrence(Choice::Nth((n - 1).saturating_add(own))),
            Choice::Every => path.with_occurrence(Choice::Nth(own)),
        }
    }
}

fn mapping<'a>(channel: &'a Channel, name: &str) -> Option<&'a Mapping> {
    channel.mapping.iter().find(|mapping| mapping.name == name)
}

fn path(text: &str) -> FieldPath {
    text.parse().expect("a path written here is right")
}

fn texts(paths: &[FieldPath]) -> String {
    paths.iter().map(FieldPath::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    fn of(lines: &str, segments: &str) -> Result<Vec<(String, String)>, String> {
        let text = format!("MSH|^~\\&|A|B|C|D|20260101||ADT^A34|1|P|2.5\r{segments}");
        let found = merges(&Message::parse(&text).unwrap(), &settings(lines).channel)?;
        Ok(found.into_iter().map(|m| (m.prior, m.surviving)).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
    }

    #[test]
    fn the_prior_id_stands_where_the_standard_says_by_the_place_of_the_surviving_one() {
        for (id, pid, mrg) in [
            ("PID.1.3.1", "PID|1||NEW^^^H", "MRG|OLD^^^H"),
            ("PID.1.3[2].1", "PID|1||x~NEW^^^H", "MRG|y~OLD^^^H"),
            ("PID.*.2.1", "PID|1|NEW", "MRG||||OLD"),
            ("PID.1.4", "PID|1|||NEW", "MRG||OLD"),
            ("PID.1.18.1", "PID|1|||||||||||||||||NEW", "MRG|||OLD"),
        ] {
            let found = of(&format!("mapping: {{ patient_id: '{id}' }}"), &format!("{pid}\r{mrg}\r"));
            assert_eq!(found, pairs(&[("OLD", "NEW")]), "{id}");
        }
        assert_eq!(of("mapping: {}", "PID|1||NEW^^^H\rMRG|OLD^^^H\r"), pairs(&[("OLD", "NEW")]));
    }

    #[test]
    fn every_pair_is_merged_in_the_order_of_the_message() {
        let three = "PID|1||A\rPD1|\rMRG|a\rPV1|1\rPID|1||B\rMRG|b\rMRG|bb\rPID|1||C\rMRG|C\r";
        assert_eq!(of("mapping: {}", three), pairs(&[("a", "A"), ("b", "B"), ("bb", "B")]));
        let by_own_path = "mapping: { prior_patient_id: MRG.1.4.1 }";
        let found = of(by_own_path, "PID|1||A\rMRG||||a\rPID|1||B\rMRG||||b\r");
        assert_eq!(found, pairs(&[("a", "A"), ("b", "B")]));
    }

    #[test]
    fn the_pattern_of_the_patient_id_is_applied_to_both() {
        let lines = "mapping: { patient_id: PID.1.3.1 }\ncustom_regex: { patient_id: '^0+' }";
        assert_eq!(of(lines, "PID|1||0012\rMRG|007\r"), pairs(&[("7", "12")]));
    }

    #[test]
    fn whatever_is_in_doubt_merges_nobody() {
        for (lines, segments, why) in [
            ("mapping: {}", "PID|1||A\r", "there is no MRG segment"),
            ("mapping: {}", "MRG|a\rPID|1||A\r", "an MRG stands before the first PID"),
            ("mapping: {}", "PID|1||A\rPID|1||B\rMRG|b\r", "PID number 1 is followed by no MRG"),
            ("mapping: {}", "PID|1||A\rMRG|a\rPID|1||B\r", "PID number 2 is followed by no MRG"),
            ("mapping: {}", "PID|1||A\rMRG|\r", "no prior patient id at MRG.1.1.1 for pair 1"),
            ("mapping: {}", "PID|1||\rMRG|a\r", "no surviving patient id at PID.1.3.1 for pair 1"),
            ("mapping: {}", "PID|1||A\rMRG|\"\"\r", "no prior patient id at MRG.1.1.1 for pair 1"),
            (
                "mapping: { patient_id: PID.1.19 }",
                "PID|1||A\rMRG|a\r",
                "MRG has no counterpart of PID.1.19. Map prior_patient_id to where the prior id is",
            ),
            (
                "mapping: { prior_patient_id: ZMR.1.1 }",
                "PID|1||A\rPID|1||B\rZMR|a\r",
                "2 pairs to merge, and ZMR.1.1 does not say which of them it is of",
            ),
        ] {
            assert_eq!(of(lines, segments), Err(why.to_owned()), "{segments}");
        }
        let many = "PID|1||A\r".to_owned() + &"MRG|a\r".repeat(PAIRS_MAX + 1);
        assert!(of("mapping: {}", &many).unwrap_err().starts_with("201 pairs"));
    }

    #[test]
    fn a_later_pair_has_its_own_patients_data_and_never_the_first_ones() {
        let lines = "mapping: { name: PID.1.5.1, ward: PV1.1.3.1, sender: MSH.1.3 }\nmapping_ignore: [ward]";
        let text = "MSH|^~\\&|APP|B|C|D|20260101||ADT^A40|1|P|2.5\rPID|1||A||ANNA\rMRG|a\rPV1|1||W1\r\
                    PID|1||B||BERTA\rMRG|b\r";
        let (message, settings) = (Message::parse(text).unwrap(), settings(lines));
        let found = merges(&message, &settings.channel).unwrap();
        assert!(found[0].is_first() && !found[1].is_first());
        let second = found[1].metadata(&message, &settings.channel).unwrap();
        assert_eq!(second.get("name"), Some("BERTA"));
        assert_eq!(second.get("sender"), Some("APP"));
        assert_eq!(second.get("ward"), None);
    }
}
