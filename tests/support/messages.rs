//! Messages the tests send.

/// An ADT^A01.
pub fn adt(control_id: &str, patient: &str) -> Vec<u8> {
    typed("ADT^A01^ADT_A01", control_id, patient)
}

/// A message of a type, with an MSH, EVN, PID and PV1.
pub fn typed(message_type: &str, control_id: &str, patient: &str) -> Vec<u8> {
    format!(
        "MSH|^~\\&|LAB|WARD|SERVER|HOSPITAL|20260102030405||{message_type}|{control_id}|P|2.5\r\
         EVN||20260102030405\rPID|1||{patient}^^^HOSP^MR||Musterfrau^Erika||19640812|F\rPV1|1|I|WARD^1^2\r"
    )
    .into_bytes()
}

/// An ADT^A01 of at least `bytes` bytes.
pub fn adt_of(bytes: usize, control_id: &str) -> Vec<u8> {
    let mut message = adt(control_id, "P1");
    message.extend_from_slice(b"NTE|1||");
    message.resize(message.len().max(bytes.saturating_sub(1)), b'x');
    message.push(b'\r');
    message
}

/// An ORU^R01 with a PDF in its OBX, and the PDF.
pub fn oru(control_id: &str, patient: &str) -> (Vec<u8>, Vec<u8>) {
    let pdf = pdf(control_id);
    let mut message = typed("ORU^R01^ORU_R01", control_id, patient);
    message.extend_from_slice(b"OBR|1||A1|REPORT\rOBX|1|ED|REPORT||^application^pdf^Base64^");
    message.extend_from_slice(base64(&pdf).as_bytes());
    message.extend_from_slice(b"||||||F\r");
    (message, pdf)
}

/// The same with a PDF of at least `bytes` bytes in Base64.
pub fn oru_of(bytes: usize, control_id: &str, patient: &str) -> (Vec<u8>, Vec<u8>) {
    let pdf = padded_pdf(control_id, bytes / 4 * 3);
    let mut message = typed("ORU^R01^ORU_R01", control_id, patient);
    message.extend_from_slice(b"OBR|1||A1|REPORT\rOBX|1|ED|REPORT||^application^pdf^Base64^");
    message.extend_from_slice(base64(&pdf).as_bytes());
    message.extend_from_slice(b"||||||F\r");
    (message, pdf)
}

/// The `attachment_field` that finds it.
pub const PDF_FIELD: &str = "OBX.1.5";

/// A small PDF of one empty page, unlike that of any other `name`.
pub fn pdf(name: &str) -> Vec<u8> {
    padded_pdf(name, 0)
}

/// The same with a comment of so many bytes.
fn padded_pdf(name: &str, padding: usize) -> Vec<u8> {
    let mut out = b"%PDF-1.4\n%".to_vec();
    out.resize(out.len() + padding, b'x');
    out.push(b'\n');
    let mut offsets = Vec::new();
    let objects = [
        format!("<< /Type /Catalog /Pages 2 0 R /Name ({name}) >>"),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>".to_owned(),
    ];
    for (n, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        out.extend_from_slice(format!("{} 0 obj\n{object}\nendobj\n", n + 1).as_bytes());
    }
    let table = out.len();
    out.extend_from_slice(b"xref\n0 4\n0000000000 65535 f \n");
    for offset in offsets {
        out.extend_from_slice(format!("{offset:010} 00000 n \n").as_bytes());
    }
    out.extend_from_slice(
        format!("trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n").as_bytes(),
    );
    out
}

/// Base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * n)) as usize & 63];
            out.push(if n <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}
