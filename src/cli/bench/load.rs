//! The load generator: one thread, many connections, every acknowledgment checked.
//!
//! Closed loop: each connection keeps `window` messages unanswered. Open loop (`rate`): messages fall due by the clock
//! whatever was answered, and a latency counts from when its message was due, so that a server that stalls cannot hide
//! it by holding the generator up. epoll is used directly, since its waits must be finer than a millisecond.

use super::super::output::Progress;
use super::super::tls::Connector;
use super::histogram::Histogram;
use super::peer::Peer;
use super::template::Template;
use rustix::event::Timespec;
use rustix::event::epoll;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Unsent bytes of a connection at which it makes no more messages ready.
const UNSENT_BYTES_MAX: usize = 128 << 10;
/// No answer at all for this long ends the run.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) connections: usize,
    /// Unanswered messages a connection may have.
    pub(super) window: usize,
    /// Ends the run, whichever comes first.
    pub(super) messages: u64,
    pub(super) time: Duration,
    /// Messages a second over all connections; closed loop without it.
    pub(super) rate: Option<f64>,
    /// Check MSA-1 and MSA-2; a ceiling's answers are only counted.
    pub(super) check: bool,
    /// Show on a terminal how far it is.
    pub(super) progress: bool,
}

impl Shape {
    /// Each connection keeps `window` messages unanswered.
    pub(super) fn closed(connections: usize, window: usize, messages: u64, time: Duration) -> Shape {
        Shape { connections, window, messages, time, rate: None, check: true, progress: true }
    }

    /// So many messages a second over all connections.
    pub(super) fn open(connections: usize, rate: f64, time: Duration) -> Shape {
        Shape { rate: Some(rate), ..Shape::closed(connections, 1, u64::MAX, time) }
    }
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// Messages sent.
    pub(super) sent: u64,
    /// Answered AA (or CA) under the right control id.
    pub(super) acknowledged: u64,
    /// Answered otherwise.
    pub(super) refused: u64,
    /// Answered under another control id, or by something that is no acknowledgment.
    pub(super) wrong: u64,
    /// From the first byte sent to the last answer.
    pub(super) elapsed: Duration,
    pub(super) latencies: Histogram,
    /// The first answer that was not as it should be.
    pub(super) example: Option<String>,
}

/// Sends what `shape` says and waits for every answer. Message numbers begin at `first`.
pub(super) fn run(to: SocketAddr, template: &Template, shape: &Shape, first: u64) -> io::Result<Outcome> {
    run_over(None, to, template, shape, first)
}

/// The same, over TLS where there is a connector.
pub(super) fn run_over(
    tls: Option<&Connector>,
    to: SocketAddr,
    template: &Template,
    shape: &Shape,
    first: u64,
) -> io::Result<Outcome> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut peers = Vec::with_capacity(shape.connections);
    for n in 0..shape.connections {
        let peer = Peer::connect(to, tls)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, peer.socket(), epoll::EventData::new_u64(n as u64), flags)?;
        peers.push(peer);
    }
    let mut run =
        Run { template, shape, next: first, first, outcome: Outcome::default(), start: Instant::now() };
    let mut events = Vec::with_capacity(shape.connections.max(1));
    let mut chunk = vec![0; 256 << 10];
    let mut last_answer = run.start;
    // Whichever of the two bounds is set to end it; the other is there for safety.
    let by_number = shape.messages < u64::MAX;
    let progress = shape.progress.then(|| match by_number {
        true => Progress::new(shape.messages, "messages"),
        false => Progress::new(shape.time.as_secs(), "seconds"),
    });
    for peer in &mut peers {
        run.turn(peer, &mut chunk)?;
    }
    loop {
        let wait = run.send_due(&mut peers)?;
        let unanswered: usize = peers.iter().map(|peer| peer.open.len()).sum();
        if unanswered == 0 && run.ended() {
            break;
        }
        events.clear();
        let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let before = run.outcome.answered();
        if let Some(progress) = &progress {
            progress.reached(if by_number { before } else { run.start.elapsed().as_secs() });
        }
        for event in &events {
            let n = usize::try_from(event.data.u64()).expect("the number of a connection was put in");
            run.turn(&mut peers[n], &mut chunk)?;
        }
        if run.outcome.answered() > before {
            last_answer = Instant::now();
        } else if unanswered > 0 && last_answer.elapsed() > SILENCE_MAX {
            let text = format!("{unanswered} messages were not answered for {} s", SILENCE_MAX.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
    }
    if let Some(progress) = progress {
        progress.end();
    }
    run.outcome.elapsed = last_answer.max(run.start) - run.start;
    Ok(run.outcome)
}

struct Run<'a> {
    template: &'a Template,
    shape: &'a Shape,
    first: u64,
    next: u64,
    outcome: Outcome,
    start: Instant,
}

impl Run<'_> {
    /// No further message is to be made.
    fn ended(&self) -> bool {
        self.next - self.first >= self.shape.messages || self.start.elapsed() >= self.shape.time
    }

    /// Reads, makes messages ready and writes, until the socket would block at both ends.
    fn turn(&mut self, peer: &mut Peer, chunk: &mut [u8]) -> io::Result<()> {
        self.read(peer, chunk)?;
        loop {
            if self.shape.rate.is_none() {
                self.fill(peer);
            }
            if peer.is_sent() || !peer.write(self.template)? {
                return Ok(());
            }
        }
    }

    /// Open loop: hands what has fallen due to the connections in turn. Returns how long to wait for the next.
    fn send_due(&mut self, peers: &mut [Peer]) -> io::Result<Duration> {
        let Some(rate) = self.shape.rate else { return Ok(Duration::from_secs(1)) };
        loop {
            let number = self.next - self.first;
            let due = self.start + Duration::from_secs_f64(number as f64 / rate);
            let now = Instant::now();
            if self.ended() {
                return Ok(Duration::from_secs(1));
            }
            if due > now {
                return Ok(due - now);
            }
            let n = usize::try_from(number % peers.len() as u64).expect("fewer than the connections");
            let peer = &mut peers[n];
            if peer.has_tail() && !peer.write(self.template)? {
                // A large message is still being sent; this one is late, and its latency will say so.
                return Ok(Duration::from_millis(1));
            }
            self.make(peer, due);
            while !peer.is_sent() && peer.write(self.template)? {}
        }
    }

    /// Closed loop: makes messages up to the window.
    fn fill(&mut self, peer: &mut Peer) {
        while peer.open.len() < self.shape.window
            && !peer.has_tail()
            && peer.unsent_bytes() < UNSENT_BYTES_MAX
            && !self.ended()
        {
            self.make(peer, Instant::now());
        }
    }

    fn make(&mut self, peer: &mut Peer, at: Instant) {
        peer.make(self.template, self.next, at);
        self.next += 1;
        self.outcome.sent += 1;
    }

    fn read(&mut self, peer: &mut Peer, chunk: &mut [u8]) -> io::Result<()> {
        while let Some(read) = peer.read(chunk)? {
            if read == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed a connection"));
            }
            peer.answers.feed(&chunk[..read])?;
            let now = Instant::now();
            while let Some(body) = peer.answers.next() {
                let Some((number, since)) = peer.open.pop_front() else {
                    return Err(io::Error::new(
                        ErrorKind::InvalidData,
                        "an answer came that nothing was sent for",
                    ));
                };
                self.outcome.latencies.record(now.saturating_duration_since(since));
                if self.shape.check {
                    self.outcome.check(body, &self.template.control_id(number));
                } else {
                    self.outcome.acknowledged += 1;
                }
            }
        }
        Ok(())
    }
}

impl Outcome {
    pub(super) fn answered(&self) -> u64 {
        self.acknowledged + self.refused + self.wrong
    }

    fn check(&mut self, body: &[u8], control_id: &[u8]) {
        match acknowledgment(body) {
            Some((b"AA" | b"CA", id)) if id == control_id => self.acknowledged += 1,
            Some((_, id)) if id == control_id => {
                self.refused += 1;
                self.keep_example(body);
            }
            _ => {
                self.wrong += 1;
                self.keep_example(body);
            }
        }
    }

    fn keep_example(&mut self, body: &[u8]) {
        if self.example.is_none() {
            self.example = Some(String::from_utf8_lossy(&body[..body.len().min(400)]).into_owned());
        }
    }
}

/// MSA-1 and MSA-2 of an acknowledgment with the delimiters that our messages have. `hl7::ack` reads any; this one is
/// run for every message of a load and costs next to nothing.
fn acknowledgment(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let msa = body.split(|byte| *byte == b'\r').find(|segment| segment.starts_with(b"MSA|"))?;
    let mut fields = msa[4..].split(|byte| *byte == b'|');
    Some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::super::template::Kind;
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    const ID: &[u8] = b"B0000000000000000001";

    /// Answers every frame by `answer(control id)`, after reading all of it.
    fn server(connections: usize, answer: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || {
                    let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
                    while let Ok(read @ 1..) = stream.read(&mut chunk) {
                        kept.extend_from_slice(&chunk[..read]);
                        while let Some(end) = kept.windows(2).position(|pair| pair == b"\x1c\r") {
                            let frame: Vec<u8> = kept.drain(..end + 2).collect();
                            let id = frame.split(|byte| *byte == b'|').nth(9).unwrap();
                            stream.write_all(&answer(id)).unwrap();
                        }
                    }
                });
            }
        });
        address
    }

    fn accepting(id: &[u8]) -> Vec<u8> {
        [b"\x0bMSH|^~\\&|A\rMSA|AA|", id, b"\r\x1c\r"].concat()
    }

    fn shape(connections: usize, window: usize, messages: u64) -> Shape {
        let time = Duration::from_secs(20);
        Shape { progress: false, ..Shape::closed(connections, window, messages, time) }
    }

    #[test]
    fn every_message_is_sent_once_and_its_answer_checked() {
        for (kind, size, messages) in [(Kind::Adt, 750, 500), (Kind::Oru, 200 << 10, 20)] {
            let template = Template::of(kind, size, 1);
            let outcome = run(server(3, accepting), &template, &shape(3, 4, messages), 0).unwrap();
            assert_eq!((outcome.sent, outcome.acknowledged), (messages, messages));
            assert_eq!(outcome.refused + outcome.wrong, 0);
        }
    }

    #[test]
    fn an_answer_under_another_control_id_is_counted_wrong() {
        let template = Template::of(Kind::Adt, 750, 1);
        let outcome = run(server(1, |_| accepting(ID)), &template, &shape(1, 1, 5), 10).unwrap();
        assert_eq!((outcome.wrong, outcome.acknowledged), (5, 0));
        assert!(outcome.example.unwrap().contains("MSA|AA|B0000000000000000001"));
    }

    #[test]
    fn a_refusal_is_no_acknowledgment() {
        let refusing = |id: &[u8]| [b"\x0bMSH|^~\\&|A\rMSA|AR|", id, b"|no\r\x1c\r"].concat();
        let template = Template::of(Kind::Adt, 750, 1);
        let outcome = run(server(1, refusing), &template, &shape(1, 1, 5), 0).unwrap();
        assert_eq!((outcome.refused, outcome.acknowledged), (5, 0));
    }

    #[test]
    fn an_open_loop_keeps_to_its_rate() {
        let template = Template::of(Kind::Adt, 750, 1);
        let open = Shape { rate: Some(500.0), ..shape(2, 1, 100) };
        let outcome = run(server(2, accepting), &template, &open, 0).unwrap();
        assert_eq!(outcome.acknowledged, 100);
        assert!(outcome.elapsed >= Duration::from_millis(190), "{:?}", outcome.elapsed);
    }
}
