//! The messages that `bench` sends: built once, after that only a control id and a patient id are written into a copy
//! of the message's head. The generator shares the machine with the server, so what it costs counts against it.

use std::io::Write as _;
use std::sync::Arc;

use super::super::mllp::{CR, FS, VT};

/// Bytes of a control id, HL7's maximum: `B`, six letters of the run, thirteen digits.
pub(super) const CONTROL_ID_BYTES: usize = 20;
const NUMBER_DIGITS: usize = 13;
const PATIENT_DIGITS: usize = 8;
/// Patients that messages are spread over: many, since messages of one patient pass one after the other.
const PATIENTS: u64 = 50_000;

/// What kind of message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// ADT^A01; --size is that of the message
    Adt,
    /// ORU^R01 with a PDF; --size is that of the PDF
    Oru,
}

/// A message with places to fill in.
#[derive(Clone)]
pub(super) struct Template {
    /// From VT up to the last place.
    head: Vec<u8>,
    /// The rest of the frame, up to its FS CR; shared, since it may be large.
    pub(super) tail: Arc<[u8]>,
    control_at: usize,
    patient_at: usize,
    run: [u8; 7],
}

impl Template {
    /// A message of that kind; `size` as [`Kind`] says, in bytes. `run` keeps its control ids apart from another run's.
    pub(super) fn of(kind: Kind, size: usize, run: u32) -> Template {
        match kind {
            Kind::Adt => Template::adt(size, run),
            Kind::Oru => Template::oru(&pdf(size), run),
        }
    }

    fn adt(size: usize, run: u32) -> Template {
        let tail = "^^^RBG^PI||Vanterpool^Odile^M^^Ms||19610403|F|||22 Ferry Lane^^Riverbend^^RB4 1QX^GBR^H||\
             +441632960417^PRN^PH|||M\r\
             NK1|1|Vanterpool^Casimir|SPO^Spouse^HL70063|22 Ferry Lane^^Riverbend^^RB4 1QX|+441632960418\r\
             PV1|1|I|3B^12^2^RBG||||00317^Marchetti^Ilaria^^^Dr|||MED||||1|||00317^Marchetti^Ilaria^^^Dr|IP|\
             V-88120^^^RBG^VN|||||||||||||||||||||||||20250510071500\r\
             AL1|1|DA|^Penicillin|MO|Rash\r\
             DG1|1||J18.1^Lobar pneumonia, unspecified organism^I10||20250510|A\r";
        let mut template = Template::build("ADT^A01^ADT_A01", tail.as_bytes().to_vec(), run);
        // VT, FS and CR belong to the frame, not to the message.
        let short = size.saturating_sub(template.frame_bytes() - 3);
        let note = b"NTE|1||\r";
        if short > note.len() {
            let mut tail = template.tail.to_vec();
            tail.truncate(tail.len() - 2);
            tail.extend_from_slice(&note[..note.len() - 1]);
            tail.extend(b"made up to its size ".iter().cycle().take(short - note.len()));
            tail.extend_from_slice(&[CR, FS, CR]);
            template.tail = tail.into();
        }
        template
    }

    /// An ADT with so many segments.
    pub(super) fn segments(segments: usize, run: u32) -> Template {
        let mut tail = b"^^^RBG^PI||Vanterpool^Odile^M^^Ms||19610403|F\r".to_vec();
        for n in 2..segments {
            let _ = write!(tail, "NTE|{n}||note {n} of a long message\r");
        }
        Template::build("ADT^A01^ADT_A01", tail, run)
    }

    fn oru(pdf: &[u8], run: u32) -> Template {
        let mut tail = b"^^^RBG^PI||Vanterpool^Odile^M^^Ms||19610403|F\r\
            PV1|1|I|3B^12^2^RBG||||00317^Marchetti^Ilaria^^^Dr|||MED||||||||IP|V-88120^^^RBG^VN\r\
            OBR|1|ORD-55120^RBGADT|LAB-2025-004417^RBGLAB|58410-2^CBC panel^LN|||20250512074000|||||||||\
            00317^Marchetti^Ilaria^^^Dr||LAB-2025-004417||||20250512101500||LAB|F\r\
            OBX|1|ED|11502-2^Laboratory report^LN||RBGLAB^application^pdf^Base64^"
            .to_vec();
        tail.extend_from_slice(&base64(pdf));
        tail.extend_from_slice(b"||||||F|||20250512101500\r");
        Template::build("ORU^R01^ORU_R01", tail, run)
    }

    fn build(kind: &str, mut tail: Vec<u8>, run: u32) -> Template {
        let mut head = vec![VT];
        let _ = write!(head, "MSH|^~\\&|BENCH|RIVERBEND|HL7SERVER|RIVERBEND|20250510071512||{kind}|");
        let control_at = head.len();
        head.extend_from_slice(&[b'0'; CONTROL_ID_BYTES]);
        head.extend_from_slice(b"|P|2.5.1\rPID|1||");
        let patient_at = head.len();
        head.extend_from_slice(&[b'0'; PATIENT_DIGITS]);
        tail.extend_from_slice(&[FS, CR]);
        let mut letters = [b'B'; 7];
        let mut rest = run;
        for letter in &mut letters[1..] {
            *letter = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[(rest % 36) as usize];
            rest /= 36;
        }
        Template { head, tail: tail.into(), control_at, patient_at, run: letters }
    }

    /// Bytes of a whole frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Bytes of the message in it.
    pub(super) fn message_bytes(&self) -> usize {
        self.frame_bytes() - 3
    }

    /// Appends the head of message `number`; the tail follows.
    pub(super) fn append_head(&self, number: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        let head = &mut out[start..];
        let id = self.control_id(number);
        head[self.control_at..self.control_at + CONTROL_ID_BYTES].copy_from_slice(&id);
        digits(&mut head[self.patient_at..self.patient_at + PATIENT_DIGITS], number % PATIENTS);
    }

    /// The whole frame of message `number`.
    pub(super) fn frame(&self, number: u64) -> Vec<u8> {
        let mut frame = Vec::with_capacity(self.frame_bytes());
        self.append_head(number, &mut frame);
        frame.extend_from_slice(&self.tail);
        frame
    }

    /// The control id of message `number`.
    pub(super) fn control_id(&self, number: u64) -> [u8; CONTROL_ID_BYTES] {
        let mut id = [0; CONTROL_ID_BYTES];
        id[..self.run.len()].copy_from_slice(&self.run);
        digits(&mut id[CONTROL_ID_BYTES - NUMBER_DIGITS..], number);
        id
    }
}

/// Writes a number over the whole of `place`, with leading zeros.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A sound PDF of about `size` bytes: one page showing one grey image, as a scanned report is.
pub(super) fn pdf(size: usize) -> Vec<u8> {
    const WIDTH: usize = 256;
    let height = (size.saturating_sub(800) / WIDTH).max(1);
    let mut pdf = b"%PDF-1.4\n%\xE2\xE3\xCF\xD3\n".to_vec();
    let mut places = Vec::new();
    let show = "q 500 0 0 700 50 70 cm /Scan Do Q";
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R \
         /Resources << /XObject << /Scan 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{show}\nendstream", show.len()),
    ];
    for (n, object) in objects.iter().enumerate() {
        places.push(pdf.len());
        let _ = write!(pdf, "{} 0 obj\n{object}\nendobj\n", n + 1);
    }
    places.push(pdf.len());
    let _ = write!(
        pdf,
        "5 0 obj\n<< /Type /XObject /Subtype /Image /Width {WIDTH} /Height {height} /ColorSpace /DeviceGray \
         /BitsPerComponent 8 /Length {} >>\nstream\n",
        WIDTH * height
    );
    // Paper with grain: no two rows alike, nothing that compresses to nothing.
    let mut state = 0x9E37_79B9u32;
    pdf.extend((0..WIDTH * height).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        200 + (state >> 27) as u8
    }));
    pdf.extend_from_slice(b"\nendstream\nendobj\n");
    let xref = pdf.len();
    let _ = write!(pdf, "xref\n0 {}\n0000000000 65535 f \n", places.len() + 1);
    for place in &places {
        let _ = writeln!(pdf, "{place:010} 00000 n ");
    }
    let _ = write!(pdf, "trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{xref}\n%%EOF\n", places.len() + 1);
    pdf
}

/// Base64 with padding. Only run once a template, so simple before fast.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for n in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * n) & 63) as usize];
            text.push(if n <= group.len() { letter } else { b'=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adt_has_the_size_asked_for() {
        for size in [750, 2_000, 100_000] {
            let template = Template::of(Kind::Adt, size, 1);
            assert_eq!(template.message_bytes(), size);
            assert_eq!(template.frame(7).len(), size + 3);
        }
    }

    #[test]
    fn messages_differ_in_control_id_and_patient_only() {
        let template = Template::of(Kind::Adt, 750, 35);
        let (one, two) = (template.frame(1), template.frame(2));
        let differing = one.iter().zip(&two).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 2);
        assert!(one.windows(CONTROL_ID_BYTES + 2).any(|w| w == b"|BZ000000000000000001|"));
        assert_eq!(template.control_id(1), *b"BZ000000000000000001");
        assert!(one.ends_with(&[CR, FS, CR]));
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn a_pdf_has_about_the_size_asked_for() {
        for size in [2_000, 100 << 10, 1 << 20] {
            let made = pdf(size).len();
            assert!(made.abs_diff(size) < 800, "{made} for {size}");
        }
    }
}
