//! Messages in files: as they are, or in MLLP frames as a capture holds them.

use super::Fail;
use super::mllp::{CR, FS, VT};
use std::io::Read;
use std::path::Path;

/// A file over this size holds no message that a server takes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// All of a file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Fail> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    match read {
        Ok(read) if read as u64 > FILE_BYTES_MAX => {
            Err(Fail::Failed(format!("\"{}\" is over 1 GiB", path.display())))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(Fail::io(format!("read \"{}\"", path.display()), &error)),
    }
}

/// The messages of a file that begins with a frame, else the whole file as one message. Bytes stay as they are.
pub(super) fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.first() != Some(&VT) {
        return if bytes.is_empty() { Vec::new() } else { vec![bytes.to_vec()] };
    }
    let mut messages = Vec::new();
    let mut rest = bytes;
    while let Some(start) = rest.iter().position(|byte| *byte == VT) {
        let body = &rest[start + 1..];
        let end = body.windows(2).position(|pair| pair == [FS, CR]);
        let (message, next) = match end {
            Some(end) => (&body[..end], &body[end + 2..]),
            None => (body.strip_suffix(&[FS]).unwrap_or(body), &body[body.len()..]),
        };
        if !message.is_empty() {
            messages.push(message.to_vec());
        }
        rest = next;
    }
    messages
}

/// The messages of a batch, which begins with FHS or BHS; else what there is as one. For looking at only: what closes a
/// batch is left out.
pub(super) fn messages(bytes: &[u8]) -> Vec<&[u8]> {
    let mut starts = Vec::new();
    let mut end = bytes.len();
    for (at, line) in lines(bytes) {
        let names = |name: &[u8]| {
            line.starts_with(name) && line.get(3).is_some_and(|byte| !byte.is_ascii_alphanumeric())
        };
        if names(b"MSH") {
            starts.push(at);
        } else if end == bytes.len() && !starts.is_empty() && (names(b"BTS") || names(b"FTS")) {
            end = at;
        }
    }
    if starts.len() < 2 && !bytes.starts_with(b"FHS") && !bytes.starts_with(b"BHS") {
        return if bytes.is_empty() { Vec::new() } else { vec![bytes] };
    }
    let ends = starts.iter().skip(1).copied().chain([end]);
    starts
        .iter()
        .zip(ends)
        .filter(|(start, end)| **start < *end)
        .map(|(start, end)| &bytes[*start..end])
        .collect()
}

/// Lines and where they begin; CR and LF both end one.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    bytes.split(|byte| matches!(byte, b'\r' | b'\n')).map(move |line| {
        let start = at;
        at += line.len() + 1;
        (start, line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_frames_is_one_message() {
        assert_eq!(frames(b"MSH|a\rPID|b\r"), [b"MSH|a\rPID|b\r".to_vec()]);
        assert!(frames(b"").is_empty());
    }

    #[test]
    fn a_capture_is_taken_apart() {
        assert_eq!(frames(b"\x0bone\r\x1c\r\n\x0btwo\x1c\r\x0bthree\x1c"), [&b"one\r"[..], b"two", b"three"]);
    }

    #[test]
    fn a_batch_is_taken_apart() {
        let batch = b"FHS|^~\\&\rBHS|^~\\&\rMSH|a\rPID|1\rMSH|b\rBTS|2\rFTS|1\r";
        assert_eq!(messages(batch), [&b"MSH|a\rPID|1\r"[..], b"MSH|b\r"]);
        assert_eq!(messages(b"MSH|a\rZBT|BTS|\r"), [b"MSH|a\rZBT|BTS|\r"]);
        assert!(messages(b"FHS|^~\\&\rFTS|0\r").is_empty());
    }
}
