//! The framing state machine: bytes and the time in, events out.
//!
//! ```text
//!            VT, or MSH without VT            FS
//!   Between ───────────────────────▶ Body ─────────▶ Ending ──▶ Between   CR, LF, 200 ms after CR FS
//!      │                              ▲ ◀───────────── │ ─────▶ Body      VT: the next frame
//!      │ other protocol, junk         │   other byte: the FS was data
//!      ▼                              ▼ timeout, oversize past its cap
//!   Closed ◀──────────────────────────┘
//! ```
//! A body over the limit stays in Body and Ending with nothing kept of it but its head. The events do not depend on
//! how the reads split the stream. Every byte is looked at a bounded number of times: positions are kept between reads.

use super::{CR, CloseCause, Deviation, Event, FS, LF, Limits, VT};
use crate::delimiters::is_separator;
use memchr::memchr;

/// Junk dropped in one gap before the connection is closed.
const JUNK_MAX: usize = 4096;
/// After CR FS, silence this long ends the frame without its CR.
const MISSING_CR_MS: u64 = 200;
/// A frame may take this long altogether, so that a peer sending a byte a minute cannot hold a buffer for ever.
const FRAME_AGE_MS: u64 = 300_000;
/// How long the end of an oversize message is waited for.
const DRAIN_MS: u64 = 60_000;
/// An oversize message is drained up to four times the limit, at most this …
const DRAIN_BYTES_MAX: usize = 64 << 20;
/// … but at least this much past the limit.
const DRAIN_BYTES_MIN: usize = 64 << 10;
/// Kept of an oversize message: its MSH is in it.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Buffers up to this size double when they grow; larger ones grow by a quarter, so that a large message costs little
/// more than itself.
const DOUBLING_BYTES_MAX: usize = 256 << 10;

/// A message that comes in parts starts with room for a small one.
const BUFFER_BYTES_MIN: usize = 1 << 10;

/// Other protocols by how a connection of theirs begins.
const OTHER_PROTOCOLS: [&[u8]; 5] = [b"GET ", b"POST", b"HEAD", b"SSH-", b"PROXY "];
/// First byte of a TLS record with a greeting.
const TLS_HANDSHAKE: u8 = 0x16;

/// Takes one connection's stream apart.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    state: State,
    /// Bytes of the connection taken so far.
    offset: u64,
}

#[derive(Debug)]
enum State {
    Between(Gap),
    Body(Frame),
    /// FS seen: what follows tells whether it ended the frame.
    Ending(Frame),
    Closed,
}

/// What is known of the bytes since the last frame.
#[derive(Debug)]
struct Gap {
    /// No frame or junk yet on this connection.
    fresh: bool,
    /// First bytes that may still become something known; none of them is VT.
    prefix: [u8; 6],
    prefix_len: usize,
    /// Junk dropped; once there is any, all up to the next VT is.
    junk: usize,
    /// Each is reported once a gap.
    pad: bool,
    stray_fs: bool,
}

#[derive(Debug)]
struct Frame {
    body: Vec<u8>,
    /// Where in the connection the body begins.
    begin: u64,
    /// There is a VT in the body.
    vt_inside: bool,
    /// Last byte taken as data.
    last: Option<u8>,
    embedded_fs: bool,
    begun_ms: u64,
    byte_ms: u64,
    oversize: Option<Drain>,
}

#[derive(Debug)]
struct Drain {
    head: Vec<u8>,
    taken: usize,
    begun_ms: u64,
}

/// What the bytes at the front of a gap are.
enum Front {
    Unknown,
    Message,
    OtherProtocol,
    Junk,
}

impl Decoder {
    /// A decoder for a fresh connection.
    pub fn new(limits: Limits) -> Decoder {
        Decoder { limits, state: State::Between(Gap::new(true)), offset: 0 }
    }

    /// Takes the next bytes of the stream. Call `tick` afterwards when its deadline has passed: bytes that are here go
    /// before a timeout that a late reader only seems to see.
    pub fn feed(&mut self, bytes: &[u8], now_ms: u64, events: &mut Vec<Event>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            // The state is taken out so that each step can turn it into the next.
            let (next, taken) = match std::mem::replace(&mut self.state, State::Closed) {
                State::Between(gap) => self.between(gap, rest, now_ms, events),
                State::Body(frame) => self.body(frame, rest, now_ms, events),
                State::Ending(frame) => self.ending(frame, rest[0], now_ms, events),
                State::Closed => (State::Closed, rest.len()),
            };
            self.state = next;
            self.offset += taken as u64;
            rest = &rest[taken..];
        }
        if let State::Body(frame) | State::Ending(frame) = &mut self.state
            && !bytes.is_empty()
        {
            frame.byte_ms = now_ms;
        }
    }

    /// Applies the timeouts that have passed; wanted at [`deadline_ms`](Self::deadline_ms), harmless at other times.
    pub fn tick(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        if self.deadline_ms().is_none_or(|deadline| now_ms < deadline) {
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Ending(frame) if now_ms >= frame.silent_since(MISSING_CR_MS) && frame.last == Some(CR) => {
                report(events, Deviation::MissingCr, self.offset, None);
                frame.complete(events)
            }
            State::Body(frame) | State::Ending(frame) => {
                let silent = self.limits.message_timeout_ms != 0
                    && now_ms >= frame.silent_since(self.limits.message_timeout_ms);
                let cause = if silent { CloseCause::MessageTimeout } else { CloseCause::FrameTooOld };
                if !frame.give_up(self.offset, events) {
                    events.push(Event::Close(cause));
                }
                State::Closed
            }
            state @ (State::Between(_) | State::Closed) => state,
        };
    }

    /// The peer has sent its last byte. A frame that only lacks its CR is complete; answers may still be written.
    pub fn end(&mut self, _now_ms: u64, events: &mut Vec<Event>) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Between(mut gap) if gap.prefix_len > 0 => {
                gap.drop_prefix(self.offset, events);
            }
            State::Ending(frame) => {
                report(events, Deviation::MissingCr, self.offset, None);
                frame.complete(events);
            }
            State::Body(frame) => {
                frame.give_up(self.offset, events);
            }
            State::Between(_) | State::Closed => {}
        }
    }

    /// When the next [`tick`](Self::tick) is due; `None` while nothing is waited for.
    pub fn deadline_ms(&self) -> Option<u64> {
        let (frame, ending) = match &self.state {
            State::Body(frame) => (frame, false),
            State::Ending(frame) => (frame, true),
            State::Between(_) | State::Closed => return None,
        };
        let mut deadline = frame.begun_ms.saturating_add(FRAME_AGE_MS);
        if let Some(drain) = &frame.oversize {
            deadline = deadline.min(drain.begun_ms.saturating_add(DRAIN_MS));
        }
        if self.limits.message_timeout_ms != 0 {
            deadline = deadline.min(frame.silent_since(self.limits.message_timeout_ms));
        }
        if ending && frame.last == Some(CR) {
            deadline = deadline.min(frame.silent_since(MISSING_CR_MS));
        }
        Some(deadline)
    }

    /// Memory held for the frame being received.
    pub fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Body(frame) | State::Ending(frame) => {
                frame.body.capacity() + frame.oversize.as_ref().map_or(0, |drain| drain.head.capacity())
            }
            State::Between(_) | State::Closed => 0,
        }
    }

    /// The frame being received goes on in this buffer, if that is larger than its own: to grow costs more than to copy
    /// what there is.
    pub fn go_on_in(&mut self, mut buffer: Vec<u8>) {
        if let State::Body(frame) | State::Ending(frame) = &mut self.state
            && frame.oversize.is_none()
            && buffer.capacity() > frame.body.capacity()
        {
            buffer.clear();
            buffer.extend_from_slice(&frame.body);
            frame.body = buffer;
        }
    }

    /// A frame has begun and not ended.
    pub fn in_frame(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Ending(_))
    }

    fn between(&self, mut gap: Gap, rest: &[u8], now_ms: u64, events: &mut Vec<Event>) -> (State, usize) {
        let byte = rest[0];
        if gap.junk > 0 {
            return self.junk(gap, rest, now_ms, events);
        }
        if gap.prefix_len > 0 {
            return self.front(gap, byte, now_ms, events);
        }
        match byte {
            VT => return (State::Body(Frame::new(self.offset + 1, now_ms)), 1),
            CR | LF | 0 | b' ' | b'\t' => {
                if !std::mem::replace(&mut gap.pad, true) {
                    report(events, Deviation::Pad, self.offset, Some(byte));
                }
            }
            FS => {
                if !std::mem::replace(&mut gap.stray_fs, true) {
                    report(events, Deviation::StrayFs, self.offset, Some(byte));
                }
            }
            TLS_HANDSHAKE if gap.fresh => {
                report(events, Deviation::TlsOnPlain, self.offset, Some(byte));
                events.push(Event::Close(CloseCause::TlsOnPlain));
                return (State::Closed, 1);
            }
            _ => return self.front(gap, byte, now_ms, events),
        }
        (State::Between(gap), 1)
    }

    /// A byte that is neither pad nor control: the front of a message without VT, of another protocol, or junk.
    fn front(&self, mut gap: Gap, byte: u8, now_ms: u64, events: &mut Vec<Event>) -> (State, usize) {
        let begin = self.offset - gap.prefix_len as u64;
        gap.prefix[gap.prefix_len] = byte;
        let front = &gap.prefix[..=gap.prefix_len];
        match classify(front, gap.fresh) {
            Front::Unknown => {
                gap.prefix_len += 1;
                (State::Between(gap), 1)
            }
            Front::Message => {
                report(events, Deviation::MissingVt, begin, front.first().copied());
                let mut frame = Frame::new(begin, now_ms);
                frame.body.extend_from_slice(front);
                (State::Body(frame), 1)
            }
            Front::OtherProtocol => {
                report(events, Deviation::NotMllp, begin, front.first().copied());
                events.push(Event::Close(CloseCause::NotMllp));
                (State::Closed, 1)
            }
            Front::Junk if gap.prefix_len > 0 => {
                // The byte at hand may be a VT: it is looked at again as what follows junk.
                gap.drop_prefix(self.offset, events);
                (State::Between(gap), 0)
            }
            Front::Junk => {
                report(events, Deviation::Junk, self.offset, Some(byte));
                gap.junk = 1;
                (State::Between(gap), 1)
            }
        }
    }

    fn junk(&self, mut gap: Gap, rest: &[u8], now_ms: u64, events: &mut Vec<Event>) -> (State, usize) {
        let end = memchr(VT, rest);
        gap.junk += end.unwrap_or(rest.len());
        if gap.junk > JUNK_MAX {
            events.push(Event::Close(CloseCause::Junk));
            return (State::Closed, rest.len());
        }
        match end {
            Some(at) => (State::Body(Frame::new(self.offset + at as u64 + 1, now_ms)), at + 1),
            None => (State::Between(gap), rest.len()),
        }
    }

    fn body(&self, mut frame: Frame, rest: &[u8], now_ms: u64, events: &mut Vec<Event>) -> (State, usize) {
        let end = memchr(FS, rest);
        let data = &rest[..end.unwrap_or(rest.len())];
        if !frame.keep(data, end.is_some(), &self.limits, now_ms, events) {
            return (State::Closed, rest.len());
        }
        match end {
            Some(at) => (State::Ending(frame), at + 1),
            None => (State::Body(frame), rest.len()),
        }
    }

    fn ending(&self, mut frame: Frame, byte: u8, now_ms: u64, events: &mut Vec<Event>) -> (State, usize) {
        match byte {
            CR => (frame.complete(events), 1),
            LF => {
                report(events, Deviation::LfForCr, self.offset, Some(byte));
                (frame.complete(events), 1)
            }
            VT => {
                report(events, Deviation::MissingCr, self.offset, Some(byte));
                frame.complete(events);
                (State::Body(Frame::new(self.offset + 1, now_ms)), 1)
            }
            _ => {
                if !std::mem::replace(&mut frame.embedded_fs, true) {
                    report(events, Deviation::EmbeddedFs, self.offset - 1, Some(FS));
                }
                if !frame.keep(&[FS], false, &self.limits, now_ms, events) {
                    return (State::Closed, 1);
                }
                // A second FS may be the end in its turn; any other byte is looked at again as part of the body.
                if byte == FS { (State::Ending(frame), 1) } else { (State::Body(frame), 0) }
            }
        }
    }
}

impl Gap {
    fn new(fresh: bool) -> Gap {
        Gap { fresh, prefix: [0; 6], prefix_len: 0, junk: 0, pad: false, stray_fs: false }
    }

    /// The front that was waited for turned out to be junk; `offset` is the place behind it.
    fn drop_prefix(&mut self, offset: u64, events: &mut Vec<Event>) {
        report(events, Deviation::Junk, offset - self.prefix_len as u64, Some(self.prefix[0]));
        self.junk = std::mem::take(&mut self.prefix_len);
    }
}

impl Frame {
    fn new(begin: u64, now_ms: u64) -> Frame {
        Frame {
            body: Vec::new(),
            begin,
            vt_inside: false,
            last: None,
            embedded_fs: false,
            begun_ms: now_ms,
            byte_ms: now_ms,
            oversize: None,
        }
    }

    fn silent_since(&self, for_ms: u64) -> u64 {
        self.byte_ms.saturating_add(for_ms)
    }

    /// Takes data of the body; false when the message is so far over the limit that the connection cannot go on.
    /// `whole`: the body probably ends here.
    fn keep(
        &mut self,
        data: &[u8],
        whole: bool,
        limits: &Limits,
        now_ms: u64,
        events: &mut Vec<Event>,
    ) -> bool {
        let mut data = data;
        if let Some(&last) = data.last() {
            self.last = Some(last);
        }
        while !data.is_empty() && self.oversize.is_none() {
            // One byte more than the limit is kept: the decision then falls at the same byte however reads split.
            let room = limits.stream_limit_bytes.saturating_add(1).saturating_sub(self.body.len());
            let (now, later) = data.split_at(room.min(data.len()));
            self.vt_inside = self.vt_inside || memchr(VT, now).is_some();
            self.reserve(now.len(), whole, limits.stream_limit_bytes);
            self.body.extend_from_slice(now);
            data = later;
            if self.body.len() > limits.stream_limit_bytes && !self.drop_truncated(events) {
                self.begin_drain(now_ms, events);
            }
        }
        let Some(drain) = &mut self.oversize else { return true };
        drain.taken = drain.taken.saturating_add(data.len());
        if drain.taken <= drain_cap(limits.stream_limit_bytes) {
            return true;
        }
        events.push(Event::Oversize { head: std::mem::take(&mut drain.head), back_in_step: false });
        false
    }

    fn reserve(&mut self, more: usize, whole: bool, limit: usize) {
        let needed = self.body.len() + more;
        if needed <= self.body.capacity() {
            return;
        }
        let room = if whole {
            needed
        } else if needed <= DOUBLING_BYTES_MAX {
            needed.next_power_of_two().max(BUFFER_BYTES_MIN)
        } else {
            (needed + needed / 4).min(limit.saturating_add(1)).max(needed)
        };
        self.body.reserve_exact(room - self.body.len());
    }

    /// Quarantines what stands before the last message that begins inside the body; false when there is none.
    fn drop_truncated(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(at) = self.vt_inside.then(|| last_begin(&self.body)).flatten() else { return false };
        report(events, Deviation::Truncated, self.begin + at as u64, Some(VT));
        // A doubled VT cut nothing off.
        if at > 0 {
            let bytes = self.body[..at].to_vec();
            events.push(Event::Quarantine { what: Deviation::Truncated, bytes });
        }
        self.body.drain(..=at);
        self.begin += at as u64 + 1;
        self.vt_inside = memchr(VT, &self.body).is_some();
        true
    }

    fn begin_drain(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        let taken = self.body.len();
        report(events, Deviation::Oversize, self.begin + taken as u64 - 1, self.body.last().copied());
        let head = self.body[..taken.min(HEAD_BYTES_MAX)].to_vec();
        self.body = Vec::new();
        self.oversize = Some(Drain { head, taken, begun_ms: now_ms });
    }

    fn complete(mut self, events: &mut Vec<Event>) -> State {
        if let Some(drain) = self.oversize {
            events.push(Event::Oversize { head: drain.head, back_in_step: true });
        } else {
            self.drop_truncated(events);
            // Growth by steps may leave room behind a large body, which is kept for as long as it is journaled.
            if self.body.capacity() > DOUBLING_BYTES_MAX {
                self.body.shrink_to_fit();
            }
            events.push(Event::Frame(self.body));
        }
        State::Between(Gap::new(false))
    }

    /// The frame will not be completed. True when it was oversize: it is answered nevertheless.
    fn give_up(self, offset: u64, events: &mut Vec<Event>) -> bool {
        if let Some(drain) = self.oversize {
            events.push(Event::Oversize { head: drain.head, back_in_step: false });
            return true;
        }
        report(events, Deviation::Partial, offset, None);
        if !self.body.is_empty() {
            events.push(Event::Quarantine { what: Deviation::Partial, bytes: self.body });
        }
        false
    }
}

fn report(events: &mut Vec<Event>, what: Deviation, offset: u64, byte: Option<u8>) {
    events.push(Event::Deviation { what, offset, byte });
}

fn classify(front: &[u8], fresh: bool) -> Front {
    if let [b'M', b'S', b'H', separator] = front
        && is_separator(*separator)
    {
        return Front::Message;
    }
    if fresh && OTHER_PROTOCOLS.contains(&front) {
        return Front::OtherProtocol;
    }
    let open =
        b"MSH".starts_with(front) || fresh && OTHER_PROTOCOLS.iter().any(|known| known.starts_with(front));
    if open { Front::Unknown } else { Front::Junk }
}

/// Where the last VT stands that begins a message or batch inside a body.
fn last_begin(body: &[u8]) -> Option<usize> {
    memchr::memrchr_iter(VT, body).find(|&at| match body[at + 1..] {
        [b'M', b'S', b'H', separator, ..] | [b'F' | b'B', b'H', b'S', separator, ..] => {
            is_separator(separator)
        }
        _ => false,
    })
}

/// How many bytes of an oversize body are taken before the connection is given up.
fn drain_cap(limit: usize) -> usize {
    limit.saturating_mul(4).min(DRAIN_BYTES_MAX).max(limit.saturating_add(DRAIN_BYTES_MIN))
}
