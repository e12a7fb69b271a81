//! Where in a message attachments are looked for: the values a channel's path chooses, or every place they are known
//! to stand in.

use hl7::delimiters::{Delimiters, parts};
use hl7::message::{Message, Segment};
use hl7::path::{Choice, FIELD_MAX, FieldPath, Subcomponent};

/// OBX-5 holds the value of an observation.
const VALUE: u16 = 5;

/// One repetition of a field, or what the path chooses of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part<'a> {
    /// As it stands in the message; empty where there is none.
    pub value: &'a str,
    /// Where it stands.
    pub row: Row<'a>,
    /// Outside what the path chooses: it can go on with a document there, and starts none.
    pub is_beyond: bool,
}

/// A field of a segment, and what the segment says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row<'a> {
    /// The segment's place in the message.
    pub at: usize,
    /// Its name.
    pub segment: &'a str,
    /// The field's number.
    pub field: u16,
    /// OBX-2; empty in other segments.
    pub value_type: &'a str,
    /// OBX-3.
    pub identifier: &'a str,
    /// OBX-4.
    pub sub_id: &'a str,
}

impl<'a> Row<'a> {
    fn new(message: &'a Message<'a>, at: usize, field: u16) -> Row<'a> {
        let segment = message.segments()[at];
        let is_value = segment.name == "OBX" && field == VALUE;
        let other = |n: u16| match segment.field(n, message.delimiters().field) {
            Some(text) if is_value => text.trim(),
            _ => "",
        };
        Row { at, segment: segment.name, field, value_type: other(2), identifier: other(3), sub_id: other(4) }
    }

    /// The value is text by its type.
    pub fn is_text(&self) -> bool {
        matches!(self.value_type, "TX" | "FT" | "ST")
    }

    /// The same kind of value with the same identifier and sub-id: what senders write who split one value.
    pub fn is_akin(&self, other: &Row<'_>) -> bool {
        self.is_same_field(other)
            && self.value_type == other.value_type
            && self.identifier == other.identifier
            && self.sub_id == other.sub_id
    }

    /// The same field of a segment of the same name.
    pub fn is_same_field(&self, other: &Row<'_>) -> bool {
        self.segment == other.segment && self.field == other.field
    }

    fn parts(
        self,
        message: &'a Message<'a>,
        path: Option<&FieldPath>,
        is_beyond: bool,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let field = message.segments()[self.at].field(self.field, message.delimiters().field);
        self.parts_of(field.unwrap_or_default(), *message.delimiters(), path, is_beyond)
    }

    fn parts_of(
        self,
        field: &'a str,
        delimiters: Delimiters,
        path: Option<&FieldPath>,
        is_beyond: bool,
    ) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (skip, take) = match path.map(FieldPath::repetition) {
            // A document or text in repetitions is one; only another repetition than the first is one that was chosen.
            None | Some(Choice::Nth(..=1) | Choice::Every) => (0, usize::MAX),
            Some(Choice::Nth(n)) => (usize::from(n) - 1, 1),
        };
        let below = path.and_then(|path| Some((path.component()?, path.subcomponent())));
        let chosen = move |repetition: &'a str| {
            let Some((component, subcomponent)) = below else { return repetition };
            let component = nth(repetition, delimiters.component, component);
            match subcomponent {
                Some(Subcomponent::Nth(n)) => nth(component, delimiters.subcomponent, n),
                None | Some(Subcomponent::Whole) => component,
            }
        };
        parts(field, delimiters.repetition).skip(skip).take(take).map(move |repetition| Part {
            value: chosen(repetition),
            row: self,
            is_beyond,
        })
    }
}

/// The values a path chooses, empty ones in their places; of a field that the path names without a repetition, all of
/// them.
pub(super) fn chosen<'a>(message: &'a Message<'a>, path: &'a FieldPath) -> impl Iterator<Item = Part<'a>> {
    let named = of_name(message, |name| name == path.segment());
    let (skip, take) = match path.occurrence() {
        Choice::Nth(n) => (usize::from(n) - 1, 1),
        Choice::Every => (0, usize::MAX),
    };
    named
        .skip(skip)
        .take(take)
        .flat_map(|at| Row::new(message, at, path.field()).parts(message, Some(path), false))
}

/// The values of the OBX behind the one a path names that carry its identifier and sub-id: a sender who splits a
/// document writes it so, and the path names its beginning.
pub(super) fn beyond<'a>(message: &'a Message<'a>, path: &'a FieldPath) -> impl Iterator<Item = Part<'a>> {
    let named = match path.occurrence() {
        Choice::Nth(n) if path.segment() == "OBX" && path.field() == VALUE => Some(usize::from(n)),
        _ => None,
    };
    let mut rows = of_name(message, |name| name == "OBX").map(|at| Row::new(message, at, VALUE));
    let first = named.and_then(|n| rows.nth(n - 1)).filter(|first| !first.identifier.is_empty());
    rows.map_while(move |row| {
        let first = first.as_ref()?;
        (row.identifier == first.identifier && row.sub_id == first.sub_id).then_some(row)
    })
    .flat_map(|row| row.parts(message, Some(path), true))
}

/// Every value of an observation, then every field of the segments of a site's own.
pub(super) fn every<'a>(message: &'a Message<'a>) -> impl Iterator<Item = Part<'a>> {
    let delimiters = *message.delimiters();
    let own = of_name(message, |name| name.starts_with('Z')).flat_map(move |at| {
        let fields = (0..=FIELD_MAX).zip(parts(message.segments()[at].raw, delimiters.field)).skip(1);
        fields.flat_map(move |(n, field)| Row::new(message, at, n).parts_of(field, delimiters, None, false))
    });
    observations(message).chain(own)
}

/// Every value of an observation.
pub(super) fn observations<'a>(message: &'a Message<'a>) -> impl Iterator<Item = Part<'a>> {
    of_name(message, |name| name == "OBX")
        .flat_map(|at| Row::new(message, at, VALUE).parts(message, None, false))
}

fn of_name<'a>(message: &'a Message<'a>, is: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = usize> + 'a {
    let wanted = move |(at, segment): (usize, &Segment<'_>)| is(segment.name).then_some(at);
    message.segments().iter().enumerate().filter_map(wanted)
}

fn nth(value: &str, delimiter: u8, n: u16) -> &str {
    parts(value, delimiter).nth(usize::from(n).saturating_sub(1)).unwrap_or_default()
}
