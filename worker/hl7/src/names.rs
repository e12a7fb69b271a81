//! Names of segments and fields after HL7 v2.5.1, for people to read; nothing is decided by them.

/// A line a segment: `NAME|its name|name of field 1|name of field 2|…`, in order.
static NAMES: &str = include_str!("names.txt");

/// The name of a segment; `None` for Z segments and those HL7 v2.5.1 lacks.
pub fn segment(name: &str) -> Option<&'static str> {
    line(name)?.split('|').nth(1)
}

/// The name of a segment's n-th field, counted from 1.
pub fn field(segment: &str, n: u16) -> Option<&'static str> {
    if n == 0 {
        return None;
    }
    line(segment)?.split('|').nth(usize::from(n) + 1)
}

fn line(segment: &str) -> Option<&'static str> {
    NAMES.lines().find(|line| line.split('|').next() == Some(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_fields_have_their_names() {
        assert_eq!(segment("PID"), Some("Patient Identification"));
        assert_eq!(field("PID", 5), Some("Patient Name"));
        assert_eq!(field("MSH", 1), Some("Field Separator"));
        assert_eq!(field("MSH", 10), Some("Message Control ID"));
        assert_eq!(field("OBX", 5), Some("Observation Value"));
        assert_eq!(field("MRG", 1), Some("Prior Patient Identifier List"));
    }

    #[test]
    fn unknown_segments_and_fields_have_none() {
        assert_eq!(segment("ZDS"), None);
        assert_eq!(field("ZDS", 1), None);
        assert_eq!(field("MSH", 0), None);
        assert_eq!(field("MSH", 22), None);
        assert_eq!(segment(""), None);
    }

    #[test]
    fn table_is_well_formed() {
        let names: Vec<&str> = NAMES.lines().map(|line| &line[..3]).collect();
        assert!(names.is_sorted_by(|a, b| a < b));
        for line in NAMES.lines() {
            assert!(line.is_ascii() && line.split('|').all(|part| !part.is_empty()), "{line}");
        }
    }
}
