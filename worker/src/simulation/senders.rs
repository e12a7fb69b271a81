//! Those who send: over connections that come and go, in pieces, several frames at a time, and again whatever was not
//! answered. Each holds the answers it gets against what it sent.

use super::world::{End, World};
use crate::reactor::Turn;
use journal::MessageId;
use journal::storage::faulty::Random;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Frames that one sends before it has an answer.
const AHEAD_MAX: usize = 8;
const CONNECTIONS_MAX: usize = 3;
const PATIENTS: u64 = 4;

/// A message and what its sender was told.
#[derive(Debug)]
struct Letter {
    control_id: String,
    body: Vec<u8>,
    /// Frames of it that wait for their answers: some senders do not wait before they send again.
    in_flight: u32,
    /// AA, with our id.
    accepted: Option<MessageId>,
    /// Answered so that it is not sent again.
    is_over: bool,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    outbox: VecDeque<u8>,
    /// Bytes of all frames so far, and of them those that are with the system.
    queued: usize,
    sent: usize,
    /// Letters that wait for their answers, with the end of their frames.
    expected: VecDeque<(usize, usize)>,
    inbox: Vec<u8>,
}

impl Connection {
    fn has_room(&self) -> bool {
        self.expected.len() < AHEAD_MAX
    }
}

pub(super) struct Senders {
    letters: Vec<Letter>,
    wanted: usize,
    connections: Vec<Connection>,
    connected: u16,
    processed: bool,
    pub(super) answers: u64,
    pub(super) again: u64,
}

impl Senders {
    pub(super) fn new(wanted: usize, processed: bool) -> Senders {
        let (letters, connections) = (Vec::new(), Vec::new());
        Senders { letters, wanted, connections, connected: 0, processed, answers: 0, again: 0 }
    }

    /// Somebody connects.
    pub(super) fn connect(&mut self, random: &mut Random, turn: &mut Turn<'_>, now_ms: u64) {
        if self.connections.len() >= CONNECTIONS_MAX {
            return;
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets is to be had");
        for stream in [&ours, &theirs] {
            stream.set_nonblocking(true).expect("a socket can be told not to block");
        }
        if random.percent(50) {
            // The least there is: answers that are not read are soon too many.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 1);
        }
        self.connected += 1;
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, (self.connected % 3) as u8));
        let stream = mio::net::TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(theirs)));
        turn.connected(stream, SocketAddr::new(address, self.connected), now_ms);
        self.connections.push(Connection {
            stream: ours,
            outbox: VecDeque::new(),
            queued: 0,
            sent: 0,
            expected: VecDeque::new(),
            inbox: Vec::new(),
        });
    }

    /// The worker is gone, and with it all connections.
    pub(super) fn all_broken(&mut self) {
        while !self.connections.is_empty() {
            self.hang_up(0);
        }
    }

    fn hang_up(&mut self, at: usize) {
        let connection = self.connections.swap_remove(at);
        for (letter, _) in connection.expected {
            self.letters[letter].in_flight -= 1;
        }
    }

    pub(super) fn break_one(&mut self, random: &mut Random) {
        if !self.connections.is_empty() {
            self.hang_up(random.below(self.connections.len() as u64) as usize);
        }
    }

    /// The next message, one that was not answered, or one whose answer is said to have been lost, on some connection;
    /// that one at times on two, by a sender that does not wait.
    pub(super) fn offer(&mut self, random: &mut Random, may_repeat: bool) {
        if !self.connections.iter().any(Connection::has_room) {
            return;
        }
        let idle = |letter: &Letter| letter.in_flight == 0 && !letter.is_over;
        let repeat = may_repeat && random.percent(8) && !self.letters.is_empty();
        let chosen = if repeat {
            Some(random.below(self.letters.len() as u64) as usize)
        } else {
            self.letters.iter().position(idle)
        };
        let at = match chosen {
            Some(at) if repeat || random.percent(70) || self.letters.len() == self.wanted => at,
            _ if self.letters.len() < self.wanted => {
                self.letters.push(letter(self.letters.len(), random));
                self.letters.len() - 1
            }
            _ => return,
        };
        for _ in 0..if repeat && random.percent(50) { 2 } else { 1 } {
            self.put(at, random);
        }
    }

    fn put(&mut self, at: usize, random: &mut Random) {
        let room = |c: &&mut Connection| c.has_room();
        let mut free: Vec<&mut Connection> = self.connections.iter_mut().filter(room).collect();
        if free.is_empty() {
            return;
        }
        let connection = free.swap_remove(random.below(free.len() as u64) as usize);
        let letter = &mut self.letters[at];
        letter.in_flight += 1;
        connection.outbox.push_back(0x0b);
        connection.outbox.extend(&letter.body);
        connection.outbox.extend([0x1c, 0x0d]);
        connection.queued += letter.body.len() + 3;
        connection.expected.push_back((at, connection.queued));
    }

    /// A piece of what is to be sent goes out on each connection; all of it where there is no hurry.
    pub(super) fn send(&mut self, random: &mut Random, all: bool) {
        let mut at = 0;
        while at < self.connections.len() {
            let connection = &mut self.connections[at];
            let bytes = connection.outbox.make_contiguous();
            let part = if all { bytes.len() } else { random.below(bytes.len() as u64 + 1) as usize };
            match connection.stream.write(&bytes[..part]) {
                Ok(n) => {
                    connection.outbox.drain(..n);
                    connection.sent += n;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.hang_up(at);
                    continue;
                }
            }
            at += 1;
        }
    }

    /// What has come back is read, a piece or all of it. Returns the messages that have been acknowledged by that.
    pub(super) fn receive(&mut self, random: &mut Random, all: bool, world: &mut World) -> Vec<MessageId> {
        let mut acknowledged = Vec::new();
        let mut at = 0;
        while at < self.connections.len() {
            let most = if all { 65_536 } else { 1 + random.below(300) as usize };
            let mut bytes = vec![0; most];
            let read = self.connections[at].stream.read(&mut bytes);
            match read {
                Ok(n) if n > 0 => {
                    self.connections[at].inbox.extend_from_slice(&bytes[..n]);
                    while let Some(answer) = next_frame(&mut self.connections[at].inbox) {
                        self.answered(at, &answer, world, &mut acknowledged);
                    }
                    at += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => at += 1,
                Ok(_) | Err(_) => self.hang_up(at),
            }
        }
        acknowledged
    }

    fn answered(&mut self, at: usize, answer: &str, world: &mut World, acknowledged: &mut Vec<MessageId>) {
        self.answers += 1;
        let field = |segment: &str, n: usize| {
            let line = answer.split('\r').find(|line| line.starts_with(segment)).unwrap_or_default();
            line.split('|').nth(n).unwrap_or_default().to_owned()
        };
        let (code, control_id) = (field("MSA", 1), field("MSA", 2));
        let connection = &mut self.connections[at];
        let Some((number, end)) = connection.expected.pop_front() else {
            return world.wrong(format!("an answer to {control_id}, and no frame is unanswered"));
        };
        // A frame is whole without its very last byte.
        if end > connection.sent + 1 {
            return world.wrong(format!("an answer to {control_id} before its frame was sent"));
        }
        let letter = &mut self.letters[number];
        letter.in_flight -= 1;
        if letter.control_id != control_id {
            let expected = &letter.control_id;
            return world.wrong(format!("an answer to {control_id} in the place of that to {expected}"));
        }
        if code != "AA" {
            // What its sender keeps is sent again, now and then.
            letter.is_over = code == "AR" || world.calm;
            return;
        }
        let Ok(id) = field("MSH", 9).parse::<MessageId>() else {
            return world.wrong(format!("the answer to {control_id} has no message id"));
        };
        if !world.may_be_acknowledged(id, self.processed) {
            world.wrong(format!("{control_id} was acknowledged as {id}, which it may not be yet"));
        }
        if letter.accepted.is_some_and(|before| before != id) {
            world.wrong(format!("{control_id} was acknowledged as {id}, and as another before"));
        }
        self.again += u64::from(letter.accepted.is_some());
        letter.accepted = Some(id);
        letter.is_over = true;
        acknowledged.push(id);
    }

    /// Whether every message was sent and answered.
    pub(super) fn are_done(&self) -> bool {
        let over = self.letters.iter().all(|letter| letter.is_over && letter.in_flight == 0);
        self.letters.len() == self.wanted && over
    }

    pub(super) fn is_acknowledged(&self, id: MessageId) -> bool {
        self.letters.iter().any(|letter| letter.accepted == Some(id))
    }

    /// How many messages were sent.
    pub(super) fn messages(&self) -> u64 {
        self.letters.len() as u64
    }

    /// At the very end: everything acknowledged was done, or is listed, or was given up by hand.
    pub(super) fn check_ends(&self, world: &mut World) {
        for letter in &self.letters {
            let Some(id) = letter.accepted else { continue };
            match world.end_of(id) {
                Some(End::Done | End::Failed | End::Discarded) => {}
                Some(End::Returned) => {
                    world.wrong(format!("{} was acknowledged as {id} and given back", letter.control_id));
                }
                None => {
                    world.wrong(format!("{} was acknowledged as {id} and never ended", letter.control_id))
                }
            }
        }
    }
}

fn letter(number: usize, random: &mut Random) -> Letter {
    // What is wrong with a message follows from its name.
    let control_id = format!("{:X}-{number}", random.below(1 << 24));
    let patient = random.below(PATIENTS);
    let other = random.below(PATIENTS);
    let (kind, merge) = match random.below(20) {
        0 => ("ZZZ^Z01", String::new()),
        1..=3 => ("ADT^A34", format!("MRG|P{other}^^^H\r")),
        4 => ("ORU^R01", String::new()),
        _ => ("ADT^A08", String::new()),
    };
    let filling = "x".repeat(if random.percent(10) { 3_000 } else { random.below(200) as usize });
    let body = format!(
        "MSH|^~\\&|APP|FAC|US|HERE|20260102||{kind}|{control_id}|P|2.5\rPID|1||P{patient}^^^H\r{merge}NTE|1||{filling}\r"
    );
    let body = body.into_bytes();
    Letter { control_id, body, in_flight: 0, accepted: None, is_over: false }
}

/// Takes the next whole frame out.
fn next_frame(inbox: &mut Vec<u8>) -> Option<String> {
    let end = inbox.windows(2).position(|pair| pair == [0x1c, 0x0d])?;
    let frame: Vec<u8> = inbox.drain(..end + 2).collect();
    Some(String::from_utf8_lossy(&frame[1..end]).into_owned())
}
