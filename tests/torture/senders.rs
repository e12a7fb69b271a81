//! Senders that behave as real ones do, and book what they were told: whatever was not answered is sent again, the same
//! bytes, over a new connection.

use crate::ledger::{Ledger, Message, Sending};
use crate::support::mllp::{Acknowledgment, Peer, Reply, frame};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a sender waits for an answer before it connects anew.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a message may go unacknowledged, whatever is broken meanwhile.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// What goes to one port.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) channel: &'static str,
    pub(crate) port: u16,
    /// Connections side by side.
    pub(crate) senders: usize,
    /// Messages that a sender has under way at once.
    pub(crate) window: usize,
    /// Between two messages of a sender.
    pub(crate) pause: Duration,
    /// Makes message `n` of a sender; the control id is to be of this one only.
    pub(crate) make: fn(sender: usize, n: usize) -> Message,
}

const ON: u8 = 0;
const FINISH: u8 = 1;
const ABANDON: u8 = 2;

/// Senders at work.
pub(crate) struct Senders {
    ledger: Arc<Ledger>,
    stage: Arc<AtomicU8>,
    given_up: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    /// Starts all senders of these streams.
    pub(crate) fn start(ledger: &Arc<Ledger>, streams: &[Stream]) -> Senders {
        let stage = Arc::new(AtomicU8::new(ON));
        let given_up = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for stream in streams {
            for sender in 0..stream.senders {
                let line = Line {
                    stream: stream.clone(),
                    sender,
                    ledger: ledger.clone(),
                    stage: stage.clone(),
                    given_up: given_up.clone(),
                };
                threads.push(std::thread::spawn(move || line.run()));
            }
        }
        Senders { ledger: ledger.clone(), stage, given_up, threads }
    }

    /// Waits until `count` more messages are acknowledged than now.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, count: usize) {
        let goal = self.ledger.acknowledged() + count;
        let end = Instant::now() + LONGEST;
        while self.ledger.acknowledged() < goal {
            let dead = self.threads.iter().filter(|thread| thread.is_finished()).count();
            assert!(dead == 0, "{dead} senders have failed");
            assert!(Instant::now() < end, "{} acknowledged, wanted {goal}", self.ledger.acknowledged());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets every sender bring its last messages home. Fails where one was not acknowledged within [`LONGEST`].
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.end(FINISH);
        let given_up = self.given_up.load(SeqCst);
        assert_eq!(given_up, 0, "messages not acknowledged within {LONGEST:?}");
    }

    /// Stops where they are; what was not answered is booked as never acknowledged.
    #[track_caller]
    pub(crate) fn abandon(mut self) {
        self.end(ABANDON);
    }

    #[track_caller]
    fn end(&mut self, stage: u8) {
        self.stage.store(stage, SeqCst);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap_or_else(|_| panic!("a sender has failed, see above"));
        }
    }
}

impl Drop for Senders {
    /// A test that fails must not wait for them.
    fn drop(&mut self) {
        self.stage.store(ABANDON, SeqCst);
    }
}

/// One sender.
struct Line {
    stream: Stream,
    sender: usize,
    ledger: Arc<Ledger>,
    stage: Arc<AtomicU8>,
    given_up: Arc<AtomicUsize>,
}

/// A connection, its number, and how much has gone over it.
struct Connection {
    peer: Peer,
    number: u64,
    position: u64,
}

impl Line {
    fn run(&self) {
        let mut under_way: VecDeque<Sending<'_>> = VecDeque::new();
        // How many of them have gone over the present connection.
        let mut sent = 0;
        let mut connection: Option<Connection> = None;
        let (mut n, mut heard_at) = (0, Instant::now());
        loop {
            let stage = self.stage.load(SeqCst);
            if stage == ABANDON || (stage == FINISH && under_way.is_empty()) {
                return under_way.into_iter().for_each(Sending::never);
            }
            while stage == ON && under_way.len() < self.stream.window {
                let message = (self.stream.make)(self.sender, n);
                under_way.push_back(self.ledger.open(self.stream.channel, self.sender, message));
                n += 1;
            }
            match self.turn(&mut connection, &mut under_way, &mut sent) {
                Some(answer) => {
                    let over = under_way.pop_front().expect("an answer to what was sent");
                    sent -= 1;
                    over.answered(&answer);
                    heard_at = Instant::now();
                    std::thread::sleep(self.stream.pause);
                }
                None => {
                    (connection, sent) = (None, 0);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            if heard_at.elapsed() > LONGEST {
                self.given_up.fetch_add(under_way.len(), SeqCst);
                return under_way.into_iter().for_each(Sending::never);
            }
        }
    }

    /// Sends what is to be sent and waits for the next answer; `None`: connect anew and send all of it again.
    fn turn(
        &self,
        connection: &mut Option<Connection>,
        under_way: &mut VecDeque<Sending<'_>>,
        sent: &mut usize,
    ) -> Option<Acknowledgment> {
        if connection.is_none() {
            let peer = Peer::try_connect(self.stream.port).ok()?;
            *connection = Some(Connection { peer, number: self.ledger.connection(), position: 0 });
        }
        let connection = connection.as_mut()?;
        while *sent < under_way.len() {
            let next = &mut under_way[*sent];
            next.sent(connection.number, connection.position);
            connection.position += 1;
            connection.peer.send_raw(&frame(&next.message().body)).ok()?;
            *sent += 1;
        }
        match connection.peer.receive(ANSWER) {
            Reply::Frame(answer) => Some(Acknowledgment::parse(&answer)),
            Reply::Closed | Reply::Silence => None,
        }
    }
}
