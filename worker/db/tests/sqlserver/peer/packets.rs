//! TDS packets: eight bytes of header, a part of a message each; and the pre-login wrapping of TLS.

use std::io::{self, Read, Write};

/// Bytes of a packet's header.
const HEADER_BYTES: usize = 8;
/// What this peer sends in one packet at most, so that longer answers come in several.
const PAYLOAD_MAX: usize = 4_096 - HEADER_BYTES;

/// A statement as plain text.
pub const BATCH: u8 = 0x01;
/// A procedure's call.
pub const RPC: u8 = 0x03;
/// What a server says.
pub const ANSWER: u8 = 0x04;
/// User and password.
pub const LOGIN: u8 = 0x10;
/// Pre-login, and TLS records until the handshake is over.
pub const PRELOGIN: u8 = 0x12;

/// Reads the packets of one message; `None` at the end of the stream.
pub fn read_message(from: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut payload = Vec::new();
    loop {
        let mut header = [0; HEADER_BYTES];
        match from.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let body = length.checked_sub(HEADER_BYTES).ok_or(io::ErrorKind::InvalidData)?;
        let start = payload.len();
        payload.resize(start + body, 0);
        from.read_exact(&mut payload[start..])?;
        if header[1] & 1 == 1 {
            return Ok(Some((header[0], payload)));
        }
    }
}

/// A message cut into packets.
pub fn packets(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = payload.chunks(PAYLOAD_MAX).peekable();
    if payload.is_empty() {
        bytes.extend([kind, 1, 0, 8, 0, 0, 1, 0]);
    }
    while let Some(part) = parts.next() {
        let length = u16::try_from(part.len() + HEADER_BYTES).unwrap().to_be_bytes();
        bytes.extend([kind, u8::from(parts.peek().is_none()), length[0], length[1], 0, 0, 1, 0]);
        bytes.extend(part);
    }
    bytes
}

/// A stream whose bytes travel in pre-login packets until `open` is called.
#[derive(Debug)]
pub struct Wrapped<S> {
    stream: S,
    wrapping: bool,
    unread: Vec<u8>,
    unsent: Vec<u8>,
}

impl<S: Read + Write> Wrapped<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, wrapping: true, unread: Vec::new(), unsent: Vec::new() }
    }

    /// The handshake is over: bytes go as they are.
    pub fn open(&mut self) {
        self.wrapping = false;
    }
}

impl<S: Read + Write> Read for Wrapped<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.wrapping && self.unread.is_empty() {
            self.flush()?;
            self.unread = match read_message(&mut self.stream)? {
                Some((PRELOGIN, payload)) => payload,
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Ok(0),
            };
        }
        if self.unread.is_empty() {
            return self.stream.read(into);
        }
        let count = into.len().min(self.unread.len());
        into[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }
}

impl<S: Read + Write> Write for Wrapped<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.wrapping {
            self.unsent.extend(bytes);
            return Ok(bytes.len());
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.stream.write_all(&packets(PRELOGIN, &std::mem::take(&mut self.unsent)))?;
        }
        self.stream.flush()
    }
}
