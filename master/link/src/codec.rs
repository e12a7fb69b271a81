//! Frames of the link and of the control socket: a length as u32 little-endian, then that many bytes of JSON. Pure.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Bytes of the length before each frame.
pub const PREFIX_BYTES: usize = 4;

/// Consumed bytes are moved out of the buffer only when there are this many, so that many small frames in one read
/// cost one move.
const COMPACT_BYTES: usize = 64 * 1024;

/// What is wrong with a frame. The stream is out of step afterwards: close it.
#[derive(Debug, PartialEq, Eq)]
pub enum CodecFault {
    /// The frame is longer than this kind of message may be.
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The bytes are not the JSON that was expected; says where.
    Malformed(String),
}

impl fmt::Display for CodecFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "frame of {bytes} bytes, over the limit of {bytes_max}")
            }
            Self::Malformed(what) => write!(f, "malformed frame: {what}"),
        }
    }
}

impl std::error::Error for CodecFault {}

/// A frame that holds `value`; refused when its JSON is over `bytes_max`.
pub fn encode<T: Serialize>(value: &T, bytes_max: usize) -> Result<Vec<u8>, CodecFault> {
    let mut frame = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut frame, value).map_err(|e| CodecFault::Malformed(e.to_string()))?;
    let bytes = frame.len() - PREFIX_BYTES;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
    let Some(length) = length else { return Err(CodecFault::TooLarge { bytes, bytes_max }) };
    frame[..PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Cuts a stream of bytes into frames. Holds what has come and never more: a length that promises much reserves nothing.
#[derive(Debug)]
pub struct Deframer {
    buffer: Vec<u8>,
    start: usize,
    bytes_max: usize,
}

impl Deframer {
    /// For frames of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, bytes_max }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, parsed; `None` until there is one.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CodecFault> {
        let pending = &self.buffer[self.start..];
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX_BYTES>() else {
            self.compact();
            return Ok(None);
        };
        let bytes = u32::from_le_bytes(*prefix) as usize;
        if bytes > self.bytes_max {
            return Err(CodecFault::TooLarge { bytes, bytes_max: self.bytes_max });
        }
        let Some(body) = rest.get(..bytes) else {
            self.compact();
            return Ok(None);
        };
        let value = serde_json::from_slice(body).map_err(|e| CodecFault::Malformed(e.to_string()))?;
        self.start += PREFIX_BYTES + bytes;
        Ok(Some(value))
    }

    fn compact(&mut self) {
        if self.start == self.buffer.len() {
            self.start = 0;
            if self.buffer.capacity() > COMPACT_BYTES {
                self.buffer = Vec::new();
            } else {
                self.buffer.clear();
            }
        } else if self.start >= COMPACT_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_split_anywhere_come_out_whole_and_in_order() {
        let frames = ["", "a", "two", &"x".repeat(70_000), "last"];
        let stream: Vec<u8> = frames.iter().flat_map(|f| encode(f, 100_000).unwrap()).collect();
        for step in [1, 3, 4, 5, 4096, stream.len()] {
            let mut deframer = Deframer::new(100_000);
            let mut out: Vec<String> = Vec::new();
            for piece in stream.chunks(step) {
                deframer.push(piece);
                while let Some(frame) = deframer.take().unwrap() {
                    out.push(frame);
                }
            }
            assert_eq!(out, frames, "step {step}");
            assert!(deframer.buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_length_alone() {
        assert_eq!(encode(&"abcd", 5), Err(CodecFault::TooLarge { bytes: 6, bytes_max: 5 }));
        let mut deframer = Deframer::new(5);
        deframer.push(&6u32.to_le_bytes());
        assert_eq!(deframer.take::<String>(), Err(CodecFault::TooLarge { bytes: 6, bytes_max: 5 }));
    }

    #[test]
    fn junk_is_malformed_and_deep_nesting_ends_no_process() {
        for body in ["not json", "\"half", "\u{0}", &"[".repeat(100_000)] {
            let mut deframer = Deframer::new(1 << 20);
            deframer.push(&(body.len() as u32).to_le_bytes());
            deframer.push(body.as_bytes());
            assert!(matches!(deframer.take::<serde_json::Value>(), Err(CodecFault::Malformed(_))));
        }
    }
}
