//! One peer's conversation: frames in, answers out in the order of the frames. Pure: bytes and the time come in, events
//! and bytes go out; it knows neither sockets nor the journal.
//!
//! ```text
//! Reading → Committing → Replying → Reading      any → Draining → Closed
//! ```
//! With pipelined frames a session is in the first three at once: each frame has its answer's place in a queue, and only
//! answers that are ready at its front go out.

use hl7::mllp::{self, Decoder, Deviation, Event, Limits};
use std::collections::VecDeque;

/// Frames of one connection that may be unanswered before its reading stops.
pub const UNANSWERED_MAX: usize = 64;
/// Bytes of answers that a peer may leave unread before its reading stops. It is not closed for that alone: the answers to
/// one batch are longer, and reach a peer that reads them; one that does not is closed by [`UNREAD_MS_MAX`].
pub const UNREAD_BYTES_MAX: usize = 256 * 1024;
/// Answers put together for one write.
const OUTPUT_BYTES: usize = 64 * 1024;
/// How long a peer may leave answers unread before its connection is closed.
pub const UNREAD_MS_MAX: u64 = 30_000;

/// Names the place of an answer in its session.
pub type AnswerNumber = u64;

/// What the session wants of the reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Frames are read and answered.
    Open,
    /// Nothing more is read; what is owed is answered, then the connection is closed.
    Draining,
    /// To be closed at once.
    Closed,
}

/// One peer's conversation.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    decoder: Decoder,
    state: State,
    /// Number of the answer at the front of `answers`.
    first: AnswerNumber,
    answers: VecDeque<Answer>,
    output: Vec<u8>,
    written: usize,
    blocked_since_ms: Option<u64>,
    last_byte_ms: u64,
    /// Messages, for `hl7server status --channel`.
    pub messages: u64,
    /// Unix time of the last message, microseconds.
    pub last_message_us: Option<i64>,
    /// Deviations by their place in [`Deviation::ALL`].
    pub deviations: [u32; Deviation::ALL.len()],
}

#[derive(Debug)]
enum Answer {
    /// Written once its message is flushed.
    Waiting(Vec<u8>),
    Ready(Vec<u8>),
    /// Its message was not stored: nothing behind it is answered either.
    Withheld,
}

impl Session {
    /// A conversation that begins.
    pub fn new(limits: Limits, now_ms: u64) -> Session {
        Session {
            limits,
            decoder: Decoder::new(limits),
            state: State::Open,
            first: 0,
            answers: VecDeque::new(),
            output: Vec::new(),
            written: 0,
            blocked_since_ms: None,
            last_byte_ms: now_ms,
            messages: 0,
            last_message_us: None,
            deviations: [0; Deviation::ALL.len()],
        }
    }

    /// Takes bytes in.
    pub fn receive(&mut self, bytes: &[u8], now_ms: u64, events: &mut Vec<Event>) {
        self.last_byte_ms = now_ms;
        if self.state == State::Open {
            self.decoder.feed(bytes, now_ms, events);
        }
    }

    /// The peer has ended its side: what it is owed is still answered.
    pub fn peer_ended(&mut self, now_ms: u64, events: &mut Vec<Event>) {
        if self.state == State::Open {
            self.decoder.end(now_ms, events);
            self.drain();
        }
    }

    /// Time passes. `paused`: bytes of the peer lie unread at our side, so that its silence is none.
    pub fn tick(&mut self, now_ms: u64, idle_timeout_ms: u64, paused: bool, events: &mut Vec<Event>) {
        if self.state == State::Open && !paused {
            self.decoder.tick(now_ms, events);
        }
        let idle = self.may_idle(idle_timeout_ms)
            && !paused
            && now_ms.saturating_sub(self.last_byte_ms) >= idle_timeout_ms;
        let unread = self.blocked_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= UNREAD_MS_MAX);
        if idle || unread {
            self.close();
        }
    }

    /// Whether `idle_timeout` counts: between frames, with nothing owed.
    fn may_idle(&self, idle_timeout_ms: u64) -> bool {
        idle_timeout_ms > 0
            && self.state == State::Open
            && !self.decoder.in_frame()
            && self.answers.is_empty()
    }

    /// When [`Session::tick`] is wanted next.
    pub fn deadline_ms(&self, idle_timeout_ms: u64) -> Option<u64> {
        let idle = self.may_idle(idle_timeout_ms).then(|| self.last_byte_ms + idle_timeout_ms);
        let unread = self.blocked_since_ms.map(|since| since + UNREAD_MS_MAX);
        [self.decoder.deadline_ms(), idle, unread].into_iter().flatten().min()
    }

    /// An answer that needs no flush of its own, behind those already owed.
    pub fn answer(&mut self, body: &[u8]) {
        self.answers.push_back(Answer::Ready(mllp::wrap(body)));
    }

    /// An answer that is written once [`Session::release`] is called with the number returned.
    pub fn answer_later(&mut self, body: &[u8]) -> AnswerNumber {
        self.answers.push_back(Answer::Waiting(mllp::wrap(body)));
        self.first + self.answers.len() as u64 - 1
    }

    /// The message of that answer is flushed.
    pub fn release(&mut self, number: AnswerNumber) {
        if let Some(answer) = self.slot(number)
            && let Answer::Waiting(bytes) = answer
        {
            *answer = Answer::Ready(std::mem::take(bytes));
        }
    }

    /// The frame of that answer, where it waits and is all that the peer is owed.
    pub fn only_answer(&self, number: AnswerNumber) -> Option<&[u8]> {
        match self.answers.front() {
            Some(Answer::Waiting(frame)) if number == self.first && self.output.is_empty() => {
                (self.state != State::Closed && self.answers.len() == 1).then_some(frame)
            }
            _ => None,
        }
    }

    /// So many bytes of the answer at the front are with the system already.
    pub fn sent(&mut self, number: AnswerNumber, bytes: usize) {
        if let Some(Answer::Waiting(frame)) = self.slot(number) {
            frame.drain(..bytes);
        }
    }

    /// The answer turns out to be another than the one kept for it.
    pub fn replace(&mut self, number: AnswerNumber, body: &[u8]) {
        if let Some(answer @ Answer::Waiting(_)) = self.slot(number) {
            *answer = Answer::Ready(mllp::wrap(body));
        }
    }

    /// The message of that answer could not be stored: the peer gets no answer, sends it again, and finds the connection
    /// closed so that nothing behind it is taken for its answer.
    pub fn withhold(&mut self, number: AnswerNumber) {
        if let Some(answer) = self.slot(number) {
            *answer = Answer::Withheld;
            self.drain();
        }
    }

    fn slot(&mut self, number: AnswerNumber) -> Option<&mut Answer> {
        self.answers.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// What is to be written now, of the answers that are ready and have none before them that waits. Empty only where
    /// there is none.
    pub fn output(&mut self) -> &[u8] {
        while self.output.len() - self.written < OUTPUT_BYTES {
            match self.answers.front() {
                Some(Answer::Ready(bytes)) => {
                    self.output.extend_from_slice(bytes);
                    self.answers.pop_front();
                    self.first += 1;
                }
                Some(Answer::Withheld) => {
                    self.first += self.answers.len() as u64;
                    self.answers.clear();
                }
                Some(Answer::Waiting(_)) | None => break,
            }
        }
        &self.output[self.written..]
    }

    /// That many bytes of [`Session::output`] are with the system now; fewer than all: the peer does not read.
    pub fn wrote(&mut self, n: usize, now_ms: u64) {
        self.written += n;
        if self.written == self.output.len() {
            self.output.clear();
            self.output.shrink_to(4096);
            self.written = 0;
            self.blocked_since_ms = None;
        } else {
            if n > 0 {
                self.blocked_since_ms = None;
            }
            self.blocked_since_ms.get_or_insert(now_ms);
        }
    }

    /// Whether the peer leaves answers unread.
    pub fn is_unread(&self) -> bool {
        self.blocked_since_ms.is_some()
    }

    /// Whether frames may be read: not while too many of them are unanswered.
    pub fn may_read(&self) -> bool {
        self.state == State::Open
            && self.answers.len() < UNANSWERED_MAX
            && self.output.len() <= UNREAD_BYTES_MAX
    }

    /// Nothing more is read; what is owed is answered.
    pub fn drain(&mut self) {
        if self.state == State::Open {
            self.state = State::Draining;
            self.decoder = Decoder::new(self.limits);
        }
    }

    /// The connection ends now.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.decoder = Decoder::new(self.limits);
    }

    /// Where the conversation is: a draining one that owes nothing is closed.
    pub fn state(&self) -> State {
        match self.state {
            State::Draining if self.answers.is_empty() && self.output.is_empty() => State::Closed,
            state => state,
        }
    }

    /// Bytes held of a frame in progress.
    pub fn buffered_bytes(&self) -> usize {
        self.decoder.buffered_bytes()
    }

    /// The frame in progress goes on in this buffer, if that is larger than its own.
    pub fn go_on_in(&mut self, buffer: Vec<u8>) {
        self.decoder.go_on_in(buffer);
    }

    /// Whether a frame has begun and not ended.
    pub fn in_frame(&self) -> bool {
        self.decoder.in_frame()
    }

    /// When the last byte came.
    pub fn last_byte_ms(&self) -> u64 {
        self.last_byte_ms
    }

    /// Answers not written yet.
    pub fn owed(&self) -> usize {
        self.answers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new(Limits { stream_limit_bytes: 1 << 20, message_timeout_ms: 60_000 }, 0)
    }

    fn unwrapped(bytes: &[u8]) -> String {
        String::from_utf8(bytes.iter().filter(|b| ![0x0b, 0x1c, 0x0d].contains(b)).copied().collect())
            .unwrap()
    }

    #[test]
    fn answers_go_out_in_the_order_of_the_frames() {
        let mut s = session();
        let first = s.answer_later(b"1");
        let second = s.answer_later(b"2");
        s.answer(b"3");
        assert_eq!(s.output(), b"");
        s.release(second);
        assert_eq!(s.output(), b"");
        s.release(first);
        assert_eq!(unwrapped(s.output()), "123");
    }

    #[test]
    fn an_answer_may_go_out_by_itself_only_where_nothing_else_is_owed() {
        let mut s = session();
        let first = s.answer_later(b"1");
        assert_eq!(s.only_answer(first).map(unwrapped).as_deref(), Some("1"));
        let second = s.answer_later(b"2");
        assert!(s.only_answer(first).is_none() && s.only_answer(second).is_none());
        // Two of its four bytes went; what is left of it stays in front of what came meanwhile.
        s.sent(first, 2);
        s.release(second);
        s.release(first);
        assert_eq!(s.output()[..2], [0x1c, 0x0d]);
        assert_eq!(unwrapped(s.output()), "2");
        let third = s.answer_later(b"3");
        assert!(s.only_answer(third).is_none(), "output is left");
        let n = s.output().len();
        s.wrote(n, 0);
        s.sent(third, 4);
        s.release(third);
        assert_eq!(s.output(), b"");
        assert_eq!(s.owed(), 0);
    }

    #[test]
    fn nothing_behind_a_message_that_could_not_be_stored_is_answered() {
        let mut s = session();
        let first = s.answer_later(b"1");
        let second = s.answer_later(b"2");
        let third = s.answer_later(b"3");
        s.release(first);
        s.withhold(second);
        s.release(third);
        assert_eq!(unwrapped(s.output()), "1");
        let n = s.output().len();
        s.wrote(n, 0);
        assert_eq!(s.state(), State::Closed);
    }

    #[test]
    fn reading_stops_while_64_frames_are_unanswered() {
        let mut s = session();
        let numbers: Vec<_> = (0..UNANSWERED_MAX).map(|_| s.answer_later(b"x")).collect();
        assert!(!s.may_read());
        s.release(numbers[0]);
        s.output();
        assert!(s.may_read());
    }

    #[test]
    fn a_peer_that_does_not_read_its_answers_is_closed() {
        let mut s = session();
        s.answer(b"x");
        s.output();
        s.wrote(1, 0);
        s.tick(UNREAD_MS_MAX - 1, 0, false, &mut Vec::new());
        assert_eq!(s.state(), State::Open);
        s.tick(UNREAD_MS_MAX, 0, false, &mut Vec::new());
        assert_eq!(s.state(), State::Closed);
    }

    #[test]
    fn the_answers_to_a_large_frame_may_be_read_slowly_and_nothing_more_is_read_meanwhile() {
        for answers in [1, 3000] {
            let mut s = session();
            for _ in 0..answers {
                s.answer(&vec![b'x'; 3_000_000 / answers]);
            }
            s.output();
            s.wrote(1, 0);
            s.tick(UNREAD_MS_MAX - 1, 0, false, &mut Vec::new());
            assert_eq!(s.state(), State::Open);
            assert!(!s.may_read());
        }
    }

    #[test]
    fn an_idle_peer_is_closed_only_where_the_channel_says_so() {
        let mut s = session();
        s.tick(u64::MAX / 2, 0, false, &mut Vec::new());
        assert_eq!(s.state(), State::Open);
        s.tick(10_000, 10_000, false, &mut Vec::new());
        assert_eq!(s.state(), State::Closed);
    }
}
