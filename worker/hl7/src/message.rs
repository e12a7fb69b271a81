//! A message as text: its segments, and the values field paths choose.
//!
//! Reading is tolerant: what a path asks for and the message lacks is absent, never a fault. Nothing is copied but the
//! list of segments.

use crate::delimiters::{self, Delimiters, parts};
use crate::escape::unescape;
use crate::header::HeaderFault;
use crate::path::{Choice, FieldPath, Subcomponent};
use crate::segments;
use std::borrow::Cow;
use std::collections::HashMap;

/// HL7's explicit null: the field is to be empty.
const NULL: &str = "\"\"";

/// Room for the segments of a message without its growing.
const SEGMENTS: usize = 16;

/// A message over its decoded text.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    delimiters: Delimiters,
    segments: Vec<Segment<'a>>,
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// What stands before the first field separator: a segment name, where the sender keeps to the standard.
    pub name: &'a str,
    /// The whole segment, without its end.
    pub raw: &'a str,
}

/// The delimiters of a message, and its segments in order.
fn segments_of(text: &str) -> Result<(Delimiters, impl Iterator<Item = Segment<'_>>), HeaderFault> {
    let skipped = text.len() - segments::skip_junk(text.as_bytes()).len();
    let text = &text[skipped..];
    let delimiters = Delimiters::read(text.as_bytes())?;
    let mut ranges = segments::split(text.as_bytes(), delimiters.field);
    let found = std::iter::from_fn(move || ranges.next_range())
        .map(move |range| Segment::new(&text[range], delimiters.field));
    Ok((delimiters, found))
}

impl<'a> Message<'a> {
    /// Finds the segments of a message; it begins with an MSH, after a byte order mark, CR, LF and spaces.
    pub fn parse(text: &'a str) -> Result<Message<'a>, HeaderFault> {
        let (delimiters, found) = segments_of(text)?;
        let mut segments = Vec::with_capacity(SEGMENTS);
        segments.extend(found);
        Ok(Message { delimiters, segments })
    }

    /// As [`parse`](Self::parse), for whoever asks for nothing but these paths: a message that holds the segments they
    /// choose, and no others; what stands behind the last of them is not looked at.
    pub fn parse_for(text: &'a str, paths: &[FieldPath]) -> Result<Message<'a>, HeaderFault> {
        let (delimiters, mut found) = segments_of(text)?;
        let mut wanted: Vec<(&FieldPath, usize)> = paths
            .iter()
            .map(|path| match path.occurrence() {
                Choice::Nth(n) => (path, usize::from(n)),
                Choice::Every => (path, usize::MAX),
            })
            .collect();
        let mut segments = Vec::new();
        while !wanted.is_empty() {
            let Some(segment) = found.next() else { break };
            let mut is_wanted = false;
            wanted.retain_mut(|(path, left)| {
                if path.names(segment.name) {
                    is_wanted = true;
                    *left -= 1;
                }
                *left > 0
            });
            if is_wanted {
                segments.push(segment);
            }
        }
        Ok(Message { delimiters, segments })
    }

    /// The delimiters the message declares.
    pub fn delimiters(&self) -> &Delimiters {
        &self.delimiters
    }

    /// Its segments in order, the MSH first.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The value at a path with its escapes as they stand: a whole repetition, a whole component with its
    /// subcomponents, or a subcomponent. `None` when it is absent or empty. Of several the first that is not empty.
    pub fn raw(&self, path: &FieldPath) -> Option<&'a str> {
        if path.is_multiple() {
            let each = self.repetitions(path).filter_map(|repetition| self.raw_in(repetition, path));
            return each.into_iter().find(|v| !v.is_empty());
        }
        self.only(path).filter(|v| !v.is_empty())
    }

    /// The value at a path that chooses one segment and one repetition.
    fn only(&self, path: &FieldPath) -> Option<&'a str> {
        let (Choice::Nth(segment), Choice::Nth(repetition)) = (path.occurrence(), path.repetition()) else {
            return None;
        };
        let segment = self.segments.iter().filter(|s| path.names(s.name)).nth(usize::from(segment) - 1)?;
        let field = segment.field(path.field(), self.delimiters.field)?;
        let header = is_header_field(segment.name, path.field());
        let delimiter = if header { delimiters::UNUSED } else { self.delimiters.repetition };
        let value = part(field, delimiter, repetition)?;
        self.raw_in(Some(Repetition { value, header }), path)
    }

    /// Every value a path with `*` or `[*]` matches: one for each segment of that name and each repetition, an absent
    /// one as an empty text, so that an empty line of a report keeps its place.
    pub fn raw_all(&self, path: &FieldPath) -> Vec<&'a str> {
        if !path.is_multiple() {
            return self.raw(path).into_iter().collect();
        }
        self.repetitions(path).map(|repetition| self.raw_in(repetition, path).unwrap_or_default()).collect()
    }

    /// The value at a path as text: escapes resolved, HL7's null as empty text. A path that stops at the component
    /// reads its first subcomponent, `.*` the component as it stands. `None` when it is absent or empty.
    pub fn text(&self, path: &FieldPath) -> Option<Cow<'a, str>> {
        let first = |raw| self.first_subcomponent(raw, path);
        let found = if path.is_multiple() {
            let each = self.repetitions(path).filter_map(|repetition| self.raw_in(repetition, path));
            each.map(first).find(|raw| !raw.is_empty())
        } else {
            self.only(path).map(first).filter(|raw| !raw.is_empty())
        };
        found.map(|raw| self.resolve(raw, path))
    }

    /// Every value a path with `*` or `[*]` matches as text, an absent one as an empty text.
    pub fn text_all(&self, path: &FieldPath) -> Vec<Cow<'a, str>> {
        if !path.is_multiple() {
            return self.text(path).into_iter().collect();
        }
        self.raw_all(path)
            .into_iter()
            .map(|raw| self.resolve(self.first_subcomponent(raw, path), path))
            .collect()
    }

    /// Every value that is not empty, at its lowest level, with its path: a field that has no components by the path
    /// of the field, a component without subcomponents by that of the component. Segments whose name is none are
    /// left out.
    pub fn walk(&self) -> impl Iterator<Item = (FieldPath, &'a str)> {
        self.walk_repetitions().flat_map(|(path, value)| self.walk_below(path, value))
    }

    /// Every repetition that is not empty, whole, with its path.
    pub fn walk_repetitions(&self) -> impl Iterator<Item = (FieldPath, &'a str)> {
        let mut seen: HashMap<&str, u16> = HashMap::new();
        self.segments.iter().flat_map(move |segment| {
            let count = seen.entry(segment.name).or_default();
            *count = count.saturating_add(1);
            self.walk_segment(segment, *count)
        })
    }

    fn walk_segment(&self, segment: &Segment<'a>, occurrence: u16) -> Vec<(FieldPath, &'a str)> {
        let mut found = Vec::new();
        let Ok(name) = <[u8; 3]>::try_from(segment.name.as_bytes()) else { return found };
        if !segments::is_name(&name) {
            return found;
        }
        let fields = delimiters::count(segment.raw.as_bytes(), self.delimiters.field);
        for n in 1..=crate::path::FIELD_MAX.min(u16::try_from(fields).unwrap_or(u16::MAX)) {
            let Some(field) = segment.field(n, self.delimiters.field) else { continue };
            for (i, value) in self.split_repetitions(segment, n, field).enumerate() {
                let Ok(repetition) = u16::try_from(i + 1) else { break };
                if !value.is_empty() {
                    found.push((FieldPath::to_field(name, occurrence, n, repetition), value));
                }
            }
        }
        found
    }

    fn walk_below(&self, path: FieldPath, value: &'a str) -> Vec<(FieldPath, &'a str)> {
        let below = &self.delimiters;
        if is_header_field(path.segment(), path.field())
            || delimiters::count(value.as_bytes(), below.component) == 1
                && delimiters::count(value.as_bytes(), below.subcomponent) == 1
        {
            return vec![(path, value)];
        }
        let mut found = Vec::new();
        for (component, n) in parts(value, below.component).zip(1..) {
            let path = path.with_component(n);
            if delimiters::count(component.as_bytes(), below.subcomponent) == 1 {
                found.push((path, component));
            } else {
                let subcomponents = parts(component, below.subcomponent).zip(1..);
                found.extend(subcomponents.map(|(value, n)| (path.with_subcomponent(n), value)));
            }
        }
        found.retain(|(_, value)| !value.is_empty());
        found
    }

    /// The repetitions a path chooses, whole, over all the segments it chooses; one that is absent as `None`.
    fn repetitions<'s>(&'s self, path: &'s FieldPath) -> impl Iterator<Item = Option<Repetition<'a>>> + 's {
        let named = self.segments.iter().filter(|segment| path.names(segment.name));
        let (skip, take) = match path.occurrence() {
            Choice::Nth(n) => (usize::from(n) - 1, 1),
            Choice::Every => (0, usize::MAX),
        };
        named.skip(skip).take(take).flat_map(move |segment| {
            let field = segment.field(path.field(), self.delimiters.field);
            let header = is_header_field(segment.name, path.field());
            let (skip, take) = match path.repetition() {
                Choice::Nth(n) => (usize::from(n) - 1, 1),
                Choice::Every => (0, usize::MAX),
            };
            let values = field.into_iter().flat_map(move |field| {
                self.split_repetitions(segment, path.field(), field).skip(skip).take(take)
            });
            let mut values = values.map(move |value| Some(Repetition { value, header })).peekable();
            let absent = values.peek().is_none().then_some(None);
            values.chain(absent)
        })
    }

    fn split_repetitions(
        &self,
        segment: &Segment<'a>,
        n: u16,
        field: &'a str,
    ) -> impl Iterator<Item = &'a str> + use<'a> {
        let delimiter =
            if is_header_field(segment.name, n) { delimiters::UNUSED } else { self.delimiters.repetition };
        parts(field, delimiter)
    }

    fn raw_in(&self, repetition: Option<Repetition<'a>>, path: &FieldPath) -> Option<&'a str> {
        let Repetition { value, header } = repetition?;
        let Some(component) = path.component() else { return Some(value) };
        // MSH-1 and MSH-2 hold delimiters that delimit nothing there.
        let (first, second) = if header {
            (delimiters::UNUSED, delimiters::UNUSED)
        } else {
            (self.delimiters.component, self.delimiters.subcomponent)
        };
        let component = part(value, first, component)?;
        match path.subcomponent() {
            None | Some(Subcomponent::Whole) => Some(component),
            Some(Subcomponent::Nth(n)) => part(component, second, n),
        }
    }

    fn first_subcomponent(&self, raw: &'a str, path: &FieldPath) -> &'a str {
        let stops_at_component = path.component().is_some() && path.subcomponent().is_none();
        if stops_at_component && !is_header_field(path.segment(), path.field()) {
            part(raw, self.delimiters.subcomponent, 1).unwrap_or(raw)
        } else {
            raw
        }
    }

    fn resolve(&self, raw: &'a str, path: &FieldPath) -> Cow<'a, str> {
        if raw == NULL {
            Cow::Borrowed("")
        } else if path.is_raw() || is_header_field(path.segment(), path.field()) {
            Cow::Borrowed(raw)
        } else {
            unescape(raw, &self.delimiters)
        }
    }
}

/// A repetition of a field, or MSH-1 or MSH-2, which has no parts.
struct Repetition<'a> {
    value: &'a str,
    header: bool,
}

impl<'a> Segment<'a> {
    fn new(raw: &'a str, separator: u8) -> Segment<'a> {
        let end = delimiters::find(separator, raw.as_bytes()).unwrap_or(raw.len());
        Segment { name: &raw[..end], raw }
    }

    /// Field n with all its repetitions, as HL7 numbers fields; `None` when the segment ends before it. `separator` is
    /// the message's field separator.
    pub fn field(&self, n: u16, separator: u8) -> Option<&'a str> {
        match (is_header(self.name), n) {
            (_, 0) => None,
            (true, 1) => self.raw.get(3..4),
            (true, _) => part(self.raw, separator, n),
            (false, _) => part(self.raw, separator, n.saturating_add(1)),
        }
    }
}

/// The segments that declare the delimiters: their field 1 is the separator itself.
fn is_header(segment: &str) -> bool {
    matches!(segment, "MSH" | "FHS" | "BHS")
}

fn is_header_field(segment: &str, n: u16) -> bool {
    n <= 2 && is_header(segment)
}

fn part(value: &str, delimiter: u8, n: u16) -> Option<&str> {
    delimiters::part(value.as_bytes(), delimiter, usize::from(n)).map(|range| &value[range])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORU: &str = concat!(
        "MSH|^~\\&|LAB|H|RIS|H|20240101||ORU^R01|42|P|2.5\r",
        "PID|1||111^^^A&1&ISO~222^^^B||EVERYMAN&&&&Aniston^ADAM\\T\\EVE|\"\"|19700101||\r",
        "OBX|1|TX|||first\r",
        "OBX|2|TX|||\r",
        "OBX|3|TX\r",
        "OBX|4|TX|||a~b\\.br\\c\r",
    );

    fn path(text: &str) -> FieldPath {
        text.parse().unwrap()
    }

    fn raw(text: &str) -> Option<&'static str> {
        Message::parse(ORU).unwrap().raw(&path(text))
    }

    fn text(path_text: &str) -> Option<String> {
        Message::parse(ORU).unwrap().text(&path(path_text)).map(Cow::into_owned)
    }

    #[test]
    fn path_to_a_field_is_the_whole_first_repetition() {
        assert_eq!(raw("PID.1.3"), Some("111^^^A&1&ISO"));
        assert_eq!(raw("PID.1.3[2]"), Some("222^^^B"));
        assert_eq!(raw("PID.1.3[3]"), None);
    }

    #[test]
    fn path_to_a_component_reads_its_first_subcomponent() {
        assert_eq!(text("PID.1.5.1").as_deref(), Some("EVERYMAN"));
        assert_eq!(raw("PID.1.5.1"), Some("EVERYMAN&&&&Aniston"));
        assert_eq!(text("PID.1.5.1.*").as_deref(), Some("EVERYMAN&&&&Aniston"));
        assert_eq!(text("PID.1.5.1.5").as_deref(), Some("Aniston"));
        assert_eq!(text("PID.1.5.1.2"), None);
        assert_eq!(text("PID.1.3[2].4").as_deref(), Some("B"));
    }

    #[test]
    fn text_has_its_escapes_resolved_and_raw_has_not() {
        assert_eq!(text("PID.1.5.2").as_deref(), Some("ADAM&EVE"));
        assert_eq!(raw("PID.1.5.2"), Some("ADAM\\T\\EVE"));
        assert_eq!(text("PID.1.5.2.*").as_deref(), Some("ADAM\\T\\EVE"));
        assert_eq!(text("OBX.4.5[2]").as_deref(), Some("b\nc"));
    }

    #[test]
    fn null_is_found_and_empty_where_an_empty_field_is_absent() {
        assert_eq!(raw("PID.1.6"), Some("\"\""));
        assert_eq!(text("PID.1.6").as_deref(), Some(""));
        assert_eq!(text("PID.1.6.1").as_deref(), Some(""));
        assert_eq!(text("PID.1.8"), None);
        assert_eq!(text("PID.1.99"), None);
        assert_eq!(text("PID.2.3"), None);
        assert_eq!(text("ZZZ.1.1"), None);
    }

    #[test]
    fn msh_1_and_2_are_the_delimiters_themselves() {
        assert_eq!(text("MSH.1.1").as_deref(), Some("|"));
        assert_eq!(text("MSH.1.2").as_deref(), Some("^~\\&"));
        assert_eq!(text("MSH.1.2.1").as_deref(), Some("^~\\&"));
        assert_eq!(text("MSH.1.2.1.1").as_deref(), Some("^~\\&"));
        assert_eq!(text("MSH.1.2.2"), None);
        assert_eq!(text("MSH.1.3").as_deref(), Some("LAB"));
        assert_eq!(text("MSH.1.9.2").as_deref(), Some("R01"));
        assert_eq!(text("MSH.1.10").as_deref(), Some("42"));
    }

    #[test]
    fn every_segment_keeps_its_line_when_all_are_asked_for() {
        let message = Message::parse(ORU).unwrap();
        assert_eq!(message.text_all(&path("OBX.*.5")), ["first", "", "", "a"]);
        assert_eq!(message.text_all(&path("OBX.*.5[*]")), ["first", "", "", "a", "b\nc"]);
        assert_eq!(message.raw_all(&path("OBX.4.5[*]")), ["a", "b\\.br\\c"]);
        assert_eq!(message.raw_all(&path("OBX.2.5")), [""; 0]);
        assert_eq!(message.raw_all(&path("NTE.*.3")), [""; 0]);
        assert_eq!(message.raw(&path("OBX.*.5")), Some("first"));
        assert_eq!(message.raw(&path("PID.1.3[*].4")), Some("A&1&ISO"));
    }

    #[test]
    fn walk_goes_down_to_what_has_no_parts() {
        let message = Message::parse(ORU).unwrap();
        let found: Vec<String> = message
            .walk()
            .map(|(path, value)| format!("{path} {value}"))
            .filter(|l| l.starts_with("PID"))
            .collect();
        let expected = [
            "PID.1.1 1",
            "PID.1.3.1 111",
            "PID.1.3.4.1 A",
            "PID.1.3.4.2 1",
            "PID.1.3.4.3 ISO",
            "PID.1.3[2].1 222",
            "PID.1.3[2].4 B",
            "PID.1.5.1.1 EVERYMAN",
            "PID.1.5.1.5 Aniston",
            "PID.1.5.2 ADAM\\T\\EVE",
            "PID.1.6 \"\"",
            "PID.1.7 19700101",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn byte_order_mark_before_the_message_is_passed_over() {
        let text = format!("\u{FEFF}\r\n {ORU}");
        assert_eq!(Message::parse(&text).unwrap().segments().len(), 6);
    }

    #[test]
    fn message_read_for_paths_holds_their_segments_and_no_others() {
        let names = |paths: &[&str]| -> Vec<&str> {
            let paths: Vec<FieldPath> = paths.iter().map(|text| path(text)).collect();
            Message::parse_for(ORU, &paths).unwrap().segments().iter().map(|segment| segment.name).collect()
        };
        assert_eq!(names(&["PID.1.3"]), ["PID"]);
        assert_eq!(names(&["PID.1.3", "OBX.2.5", "PID.1.5"]), ["PID", "OBX", "OBX"]);
        assert_eq!(names(&["OBX.*.5", "MSH.1.3"]), ["MSH", "OBX", "OBX", "OBX", "OBX"]);
        assert_eq!(names(&[]), [""; 0]);
        let later = [ORU, "PID|1||later\r"].concat();
        let message = Message::parse_for(&later, &[path("PID.2.3"), path("OBX.3.5")]).unwrap();
        assert_eq!(
            (message.text(&path("PID.2.3")).as_deref(), message.text(&path("OBX.3.5"))),
            (Some("later"), None)
        );
    }

    #[test]
    fn names_that_only_begin_like_the_segment_are_others() {
        let message = Message::parse("MSH|^~\\&\rPIDX|1||9\rpid|1||8\rPID").unwrap();
        assert_eq!(message.text(&path("PID.1.3")), None);
        assert_eq!(message.segments()[3], Segment { name: "PID", raw: "PID" });
    }

    proptest! {
        #[test]
        fn no_text_makes_a_message_panic(
            tail in "([A-Z0-9|^~&\\\\\r\n\"é🙂*.]|PID|\r){0,80}",
            ending in any::<String>(),
            n in 1u16..20,
        ) {
            for head in ["MSH|^~\\&|", "MSH|^~|", "MSH||", "\u{FEFF}MSH@~&#\\@", "MSH"] {
                let body = format!("{head}{tail}{ending}");
                let Ok(message) = Message::parse(&body) else { continue };
                for path in ["PID.1.3", "PID.*.3[*].1", "MSH.1.2.1", "PID.1.5.1.*", "MSH.*.1[*].1.2", "OBX.*.5[2]"] {
                    let path = path.parse().unwrap();
                    let few = Message::parse_for(&body, &[path]).unwrap();
                    prop_assert_eq!(few.raw(&path), message.raw(&path));
                    prop_assert_eq!(few.text(&path), message.text(&path));
                    prop_assert_eq!(few.text_all(&path), message.text_all(&path));
                }
                for segment in message.segments() {
                    segment.field(n, message.delimiters().field);
                }
                for (path, value) in message.walk() {
                    prop_assert_eq!(message.raw(&path), Some(value), "{}", path);
                }
            }
        }
    }
}
