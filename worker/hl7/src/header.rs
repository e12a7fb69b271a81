//! The MSH of a message, over the bytes as they came.
//!
//! This is all that admission and the acknowledgment need: no text is decoded, nothing is copied, and only the first
//! segment is looked at.

use crate::charset::{self, Declared, Encoding};
use crate::delimiters::{self, Delimiters};
use crate::segments;
use std::fmt;
use std::ops::Range;

/// Fields whose place is remembered, MSH-2 to MSH-25 (HL7 2.8 ends there); later ones are searched for.
const PLACES: usize = 24;

/// The first field that must be there, be it empty: without MSH-9 and what follows there is no message to answer.
const FIELDS_MIN: usize = 9;

/// Why a body has no header to read. The peer's fault; the answer is AR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// The body does not begin with `MSH`.
    Missing,
    /// The MSH ends before MSH-9.
    Short,
    /// MSH-1 or MSH-2 holds what cannot be a delimiter, or the body is in UTF-16 or UTF-32 where that was not said, or
    /// is cut off in them.
    Unreadable,
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeaderFault::Missing => "no MSH segment at the beginning",
            HeaderFault::Short => "the MSH segment ends before MSH-9",
            HeaderFault::Unreadable => "the MSH segment holds no delimiters, or its encoding is another",
        })
    }
}

impl std::error::Error for HeaderFault {}

/// An MSH segment and where its fields begin.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    msh: &'a [u8],
    delimiters: Delimiters,
    /// Where MSH-2, MSH-3 … begin.
    starts: [u32; PLACES],
    /// Fields there are, MSH-1 and MSH-2 among them.
    fields: usize,
    /// The MSH with what only looks like a delimiter hidden, where the encoding has such bytes.
    mask: Option<Vec<u8>>,
}

impl<'a> Header<'a> {
    /// Reads the MSH at the beginning of a body, after a byte order mark, CR, LF and spaces.
    pub fn parse(body: &'a [u8]) -> Result<Header<'a>, HeaderFault> {
        let start = segments::skip_junk(body);
        let delimiters = match Delimiters::read(start) {
            Err(HeaderFault::Missing) if charset::looks_wide(body) => return Err(HeaderFault::Unreadable),
            read => read?,
        };
        let msh = segments::split(start, delimiters.field).next().ok_or(HeaderFault::Missing)?;
        let mut header = Header { msh, delimiters, starts: [0; PLACES], fields: 0, mask: None };
        header.find_fields();
        if header.fields < FIELDS_MIN { Err(HeaderFault::Short) } else { Ok(header) }
    }

    /// As [`parse`](Self::parse), for a body in the encoding the channel is set to: one in which a byte that looks like
    /// a delimiter may be part of a character, as in Shift_JIS. UTF-16 and UTF-32 are not read here: see
    /// [`charset::transcode_header`].
    pub fn parse_in(body: &'a [u8], encoding: Encoding) -> Result<Header<'a>, HeaderFault> {
        let mut header = Header::parse(body)?;
        if header.is_plain() {
            return Ok(header);
        }
        // MSH-18 says whether the message switches between sets; it may itself stand behind such a switch.
        header.hide(encoding, Some(delimiters::UNUSED));
        let Declared { encoding, escape, .. } = Declared::of_header(&header, encoding);
        header.hide(encoding, escape);
        if header.fields < FIELDS_MIN { Err(HeaderFault::Short) } else { Ok(header) }
    }

    /// The usual MSH: ASCII, and nothing behind MSH-2 that could begin a switch. In it every delimiter is one.
    fn is_plain(&self) -> bool {
        let values = &self.msh[self.starts[1] as usize..];
        self.msh.is_ascii() && memchr::memchr2(charset::ESC, self.delimiters.escape, values).is_none()
    }

    fn hide(&mut self, encoding: Encoding, escape: Option<u8>) {
        let mask = charset::mask(self.msh, encoding, escape, self.delimiters.field);
        if mask != self.mask {
            self.mask = mask;
            self.find_fields();
        }
    }

    /// Something in the MSH looks like a delimiter and is none.
    pub(crate) fn is_masked(&self) -> bool {
        self.mask.is_some()
    }

    fn find_fields(&mut self) {
        let mut starts = [0; PLACES];
        let mut fields = 1;
        // Fields of an MSH are short: a search made for long ones costs more.
        for (at, byte) in self.outline().iter().enumerate() {
            if *byte == self.delimiters.field {
                if let Some(place) = starts.get_mut(fields - 1) {
                    // A field that begins past 4 GiB does not exist: frames are far smaller.
                    *place = u32::try_from(at + 1).unwrap_or(u32::MAX);
                }
                fields += 1;
            }
        }
        (self.starts, self.fields) = (starts, fields);
    }

    /// What the parts of the MSH are found in; as long as it.
    fn outline(&self) -> &[u8] {
        self.mask.as_deref().unwrap_or(self.msh)
    }

    /// MSH-n as it came, all repetitions, without escapes resolved; empty when absent. MSH-1 is the field separator,
    /// MSH-2 the encoding characters.
    pub fn field(&self, n: u16) -> &'a [u8] {
        self.msh.get(self.place(n)).unwrap_or_default()
    }

    fn place(&self, n: u16) -> Range<usize> {
        let n = usize::from(n);
        match n {
            0 => 0..0,
            1 => 3..4,
            _ if n > self.fields => 0..0,
            _ if n > PLACES => delimiters::part(self.outline(), self.delimiters.field, n).unwrap_or_default(),
            _ => {
                let start = self.starts[n - 2] as usize;
                let end = if n == self.fields { self.msh.len() } else { self.starts[n - 1] as usize - 1 };
                start..end
            }
        }
    }

    /// A component of the first repetition of MSH-n; empty when absent.
    pub fn component(&self, field: u16, component: u16) -> &'a [u8] {
        if field <= 2 {
            return if component == 1 { self.field(field) } else { &[] };
        }
        let place = self.place(field);
        let Some(value) = self.outline().get(place.clone()) else { return &[] };
        let found = delimiters::component(value, &self.delimiters, component).unwrap_or_default();
        self.msh.get(place.start + found.start..place.start + found.end).unwrap_or_default()
    }

    /// The delimiters the message declares.
    pub fn delimiters(&self) -> &Delimiters {
        &self.delimiters
    }

    /// Message type and trigger event, MSH-9.1 and MSH-9.2; each empty when absent.
    pub fn message_type(&self) -> (&'a [u8], &'a [u8]) {
        (self.component(9, 1), self.component(9, 2))
    }

    /// The sender's control id, MSH-10 byte for byte.
    pub fn control_id(&self) -> &'a [u8] {
        self.field(10)
    }

    /// An acknowledgment that came in: MSH-9.1 is `ACK` or `MCF`. It is never answered.
    pub fn is_acknowledgment(&self) -> bool {
        matches!(self.component(9, 1), b"ACK" | b"MCF")
    }
}

/// The trigger event: MSH-9.2, or EVN-1 where it stands only there. `None` when it stands nowhere.
pub fn event_of(body: &[u8], header: &Header<'_>) -> Option<Vec<u8>> {
    let declared = header.message_type().1;
    if !declared.is_empty() {
        return Some(declared.to_vec());
    }
    let delimiters = header.delimiters();
    let evn = segments::split(segments::skip_junk(body), delimiters.field)
        .find(|segment| segment.starts_with(b"EVN") && segment.get(3) == Some(&delimiters.field))?;
    let mut value = &evn[delimiters::part(evn, delimiters.field, 2)?];
    for delimiter in [delimiters.repetition, delimiters.component, delimiters.subcomponent] {
        value = &value[delimiters::part(value, delimiter, 1)?];
    }
    (!value.is_empty()).then(|| value.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ADT: &[u8] = b"MSH|^~\\&|LAB|H1~H2|RIS^x|GH|20240101||ADT^A08^ADT_A01|MSG-1|P|2.5.1|||AL|NE\rPID|1";

    #[test]
    fn fields_are_numbered_as_hl7_numbers_them() {
        let header = Header::parse(ADT).unwrap();
        assert_eq!(header.field(0), b"");
        assert_eq!(header.field(1), b"|");
        assert_eq!(header.field(2), b"^~\\&");
        assert_eq!(header.field(3), b"LAB");
        assert_eq!(header.field(4), b"H1~H2");
        assert_eq!(header.component(4, 1), b"H1");
        assert_eq!(header.component(5, 2), b"x");
        assert_eq!(header.component(2, 1), b"^~\\&");
        assert_eq!(header.message_type(), (&b"ADT"[..], &b"A08"[..]));
        assert_eq!(header.control_id(), b"MSG-1");
        assert_eq!(header.field(16), b"NE");
        assert_eq!(header.field(17), b"");
        assert_eq!(header.field(u16::MAX), b"");
    }

    #[test]
    fn fields_past_the_remembered_places_are_found() {
        let mut body = b"MSH|^~\\&".to_vec();
        for n in 3..40 {
            body.extend(format!("|{n}").bytes());
        }
        let header = Header::parse(&body).unwrap();
        for n in 3..40 {
            assert_eq!(header.field(n), n.to_string().as_bytes());
        }
        assert_eq!(header.field(40), b"");
    }

    #[test]
    fn byte_order_mark_and_blank_lines_before_msh_are_passed_over() {
        let body = [b"\xEF\xBB\xBF\r\n ", ADT].concat();
        assert_eq!(Header::parse(&body).unwrap().control_id(), b"MSG-1");
    }

    #[test]
    fn header_ends_with_its_segment() {
        for end in ["\r", "\n", "\r\n"] {
            let body = format!("MSH|^~\\&|||||||ACK|77{end}MSA|AA|1");
            let header = Header::parse(body.as_bytes()).unwrap();
            assert_eq!(header.control_id(), b"77");
            assert!(header.is_acknowledgment());
        }
    }

    #[test]
    fn short_missing_and_unreadable_are_told_apart() {
        assert_eq!(Header::parse(b"").unwrap_err(), HeaderFault::Missing);
        assert_eq!(Header::parse(b"hello").unwrap_err(), HeaderFault::Missing);
        assert_eq!(Header::parse(b"MSH|^~\\&|A|B|C|D|2020|").unwrap_err(), HeaderFault::Short);
        assert_eq!(Header::parse(b"MSH|^~").unwrap_err(), HeaderFault::Short);
        assert_eq!(Header::parse(b"MSH \0").unwrap_err(), HeaderFault::Unreadable);
        assert_eq!(Header::parse(b"M\0S\0H\0|\0").unwrap_err(), HeaderFault::Unreadable);
        assert!(Header::parse(b"MSH|^~\\&|A|B|C|D|2020||").is_ok());
    }

    #[test]
    fn event_stands_in_evn_when_msh_has_none() {
        let body = b"MSH|^~\\&|||||||ADT|1|P|2.2\rEVN|A34^x|2020\rPID|1";
        let header = Header::parse(body).unwrap();
        assert_eq!(event_of(body, &header), Some(b"A34".to_vec()));
        let header = Header::parse(ADT).unwrap();
        assert_eq!(event_of(ADT, &header), Some(b"A08".to_vec()));
        let body = b"MSH|^~\\&|||||||ADT|1|P|2.2\rEVN\rPID|1";
        assert_eq!(event_of(body, &Header::parse(body).unwrap()), None);
    }

    proptest! {
        #[test]
        fn plain_header_is_read_as_one_that_might_be_none(tail in "[A-Z~^\\\\|\x1b$(C2D4]{0,60}") {
            let body = format!("MSH|^~\\&|A|B|C|D|2024||ADT^A01|1|P|2.5||||||{tail}");
            let looked_at_whole = |encoding| {
                let mut header = Header::parse(body.as_bytes())?;
                header.hide(encoding, Some(delimiters::UNUSED));
                let escape = Declared::of_header(&header, encoding).escape;
                header.hide(encoding, escape);
                if header.fields < FIELDS_MIN { Err(HeaderFault::Short) } else { Ok(header) }
            };
            for encoding in [Encoding::Auto, Encoding::Utf8, charset::ISO_2022_JP] {
                let (whole, found) = (looked_at_whole(encoding), Header::parse_in(body.as_bytes(), encoding));
                prop_assert_eq!(format!("{whole:?}"), format!("{found:?}"));
            }
        }

        #[test]
        fn no_bytes_make_the_header_panic(tail in proptest::collection::vec(any::<u8>(), 0..300), n in any::<u16>()) {
            for prefix in [&b""[..], b"MSH", b"MSH|^~\\&|", b"MSH|^~\\&|||||||A|", b"\xEF\xBB\xBF MSH|"] {
                let body = [prefix, &tail].concat();
                if let Ok(header) = Header::parse(&body) {
                    for field in (0..40).chain([n]) {
                        header.field(field);
                        header.component(field, n);
                    }
                    event_of(&body, &header);
                }
            }
        }

        #[test]
        fn a_header_s_fields_join_to_its_segment(fields in proptest::collection::vec("[a-z^&~ ]{0,6}", 8..60)) {
            let body = format!("MSH|^~\\&|{}", fields.join("|"));
            let header = Header::parse(body.as_bytes()).unwrap();
            for (i, field) in fields.iter().enumerate() {
                prop_assert_eq!(header.field(i as u16 + 3), field.as_bytes());
            }
        }
    }
}
