//! Sending messages on over MLLP: one connection is kept, one message is under way, its acknowledgment decides.
//!
//! ```text
//!   none ──connect──▶ idle ──send──▶ waiting ──answer that matches──▶ idle
//!    ▲                 │                │ timeout, end, garbage
//!    └── end or bytes ─┴────────────────┘
//! ```
//! An answer belongs to a message by its MSA-2 alone; another's is passed over. After a timeout the connection is
//! closed, so that the answer that comes late comes to nobody. Delivery is at least once: where an acknowledgment was
//! lost, the peer sees the message again.

use crate::connect;
use crate::fault::Fault;
use crate::files::plain;
use crate::peer_stream::PeerStream;
use crate::tls_client;
use config::Resend;
use hl7::ack::Acknowledgment;
use hl7::charset::Encoding;
use hl7::mllp::{self, Decoder, Deviation, Event, Limits};
use std::fmt;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// An acknowledgment has a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Answers to other messages that are passed over while one waits; a peer that sends more is not answering.
const FOREIGN_MAX: usize = 100;
/// Error codes of table 0357 that lie in the message itself: segment sequence, required field, data type, table value.
/// Sent again it would be answered again with the same.
const ERRORS_OF_THE_MESSAGE: std::ops::RangeInclusive<u16> = 100..=103;

/// Sends to one peer. One a thread; it keeps its connection.
pub struct ResendClient {
    settings: Resend,
    connection: Option<Connection>,
    /// Whether the peer can be trusted with a second message on a connection.
    keeps: bool,
    /// What the peer last answered, for the log of a channel that shows messages.
    last_answer: Option<Vec<u8>>,
}

struct Connection {
    stream: PeerStream,
    decoder: Decoder,
    began: Instant,
    /// Nothing was sent on it yet.
    fresh: bool,
}

/// A message under way.
struct Sent<'a> {
    frame: Vec<u8>,
    control_id: &'a [u8],
    encoding: Encoding,
}

impl Sent<'_> {
    /// Reads an answer: in ASCII and what is like it, or in the encoding of the message.
    fn read(&self, body: &[u8]) -> Option<Acknowledgment> {
        hl7::ack::read(body)
            .or_else(|| hl7::ack::read(hl7::charset::decode(body, self.encoding).text.as_bytes()))
    }
}

/// Why no answer came.
enum Silence {
    /// The connection ended, before any byte of an answer or after some.
    Ended { reason: String, answered: bool },
    /// It came to nothing in time.
    Late(String),
    /// What came is no answer.
    Garbage(String),
}

impl fmt::Debug for ResendClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResendClient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl ResendClient {
    /// Connects when it is first used.
    pub fn new(settings: &Resend) -> ResendClient {
        ResendClient { settings: settings.clone(), connection: None, keeps: true, last_answer: None }
    }

    /// The peer as messages name it.
    pub fn peer(&self) -> String {
        format!("resend peer {:?}", connect::address(&self.settings.server, self.settings.port))
    }

    /// The last answer, as it came.
    pub fn last_answer(&self) -> Option<&[u8]> {
        self.last_answer.as_deref()
    }

    /// Sends a message, its bytes as they are, and waits for the acknowledgment of `control_id`, its MSH-10 (in UTF-8
    /// where `encoding`, the channel's, is UTF-16 or UTF-32). Connecting included it takes at most `timeout`, or twice
    /// that where a kept connection turned out to be closed.
    ///
    /// # Errors
    /// Why the peer has not taken it.
    pub fn send(&mut self, body: &[u8], control_id: &[u8], encoding: Encoding) -> Result<(), Fault> {
        let message = Sent { frame: mllp::wrap(body), control_id, encoding };
        self.last_answer = None;
        loop {
            let deadline = Instant::now() + self.settings.timeout;
            let mut connection = self.connection(deadline)?;
            let fresh = std::mem::replace(&mut connection.fresh, false);
            match self.exchange(&mut connection, fresh, &message, deadline) {
                Ok(answer) => {
                    // What lies unread by now is checked before the next message.
                    self.connection = self.keeps.then_some(connection);
                    return self.verdict(&answer);
                }
                // Peers that close after each message do so while the next is on its way. Whether they have read it is
                // not known, as after any lost answer; waiting would not tell, and would cost a wait each message.
                Err(Silence::Ended { answered: false, .. }) if !fresh => {}
                Err(silence) => return Err(self.silent(silence)),
            }
        }
    }

    /// Connects, and shakes hands where TLS is set.
    ///
    /// # Errors
    /// Why that could not be done.
    pub fn probe(&mut self) -> Result<String, Fault> {
        let deadline = Instant::now() + self.settings.timeout;
        self.connection = Some(self.connection(deadline)?);
        let how = if self.settings.tls.is_some() { ", with TLS" } else { "" };
        Ok(format!("{} takes connections{how}", self.peer()))
    }

    /// The kept connection where it is sound, else a new one.
    fn connection(&mut self, deadline: Instant) -> Result<Connection, Fault> {
        if let Some(mut kept) = self.connection.take()
            && !kept.decoder.in_frame()
            && kept.stream.is_quiet()
        {
            return Ok(kept);
        }
        let Resend { server, port, timeout, tls, .. } = &self.settings;
        let connected = connect::connect(server, *port, *timeout, deadline).and_then(|stream| match tls {
            Some(tls) => tls_client::connect(tls, server, stream, deadline),
            None => PeerStream::plain(stream).map_err(|error| plain(&error)),
        });
        let stream =
            connected.map_err(|why| Fault::down(format!("could not connect to {}: {why}", self.peer())))?;
        let limits = Limits { stream_limit_bytes: ANSWER_BYTES_MAX, message_timeout_ms: 0 };
        Ok(Connection { stream, decoder: Decoder::new(limits), began: Instant::now(), fresh: true })
    }

    fn exchange(
        &mut self,
        connection: &mut Connection,
        fresh: bool,
        message: &Sent<'_>,
        deadline: Instant,
    ) -> Result<Acknowledgment, Silence> {
        let mut progress = Progress::default();
        if let Err(error) = connection.stream.write_all(&message.frame, deadline) {
            return Err(match error.kind() {
                ErrorKind::TimedOut => Silence::Late("it does not take the message".to_owned()),
                _ => Silence::Ended { reason: plain(&error), answered: false },
            });
        }
        loop {
            for event in connection.events(deadline, &mut progress)? {
                let Some(body) = progress.answer(event)? else { continue };
                let Some(answer) = message.read(&body) else {
                    return Err(Silence::Garbage("its answer is no acknowledgment".to_owned()));
                };
                if answer.control_id.trim_ascii() != message.control_id.trim_ascii() {
                    progress.foreign += 1;
                    if !fresh {
                        self.distrust();
                    }
                    continue;
                }
                if self.is_interim(&answer) {
                    progress.interim = true;
                    continue;
                }
                self.last_answer = Some(body);
                return Ok(answer);
            }
            if progress.foreign > FOREIGN_MAX {
                let reason = format!("it sent {} answers, none of them to this message", progress.foreign);
                return Err(Silence::Garbage(reason));
            }
        }
    }

    /// A peer that answers earlier messages of a connection again has not cleared them away: it takes them again too,
    /// each time another comes. node-hl7-server 2.5 does so.
    fn distrust(&mut self) {
        if self.keeps {
            self.keeps = false;
            log::warn!(
                "{} answers earlier messages of a connection again, so it may have taken them again; from now on \
                 each message has a connection of its own",
                self.peer()
            );
        }
    }

    /// In enhanced mode a commit acknowledgment may come first; where it is not what counts, the other is waited for.
    fn is_interim(&self, answer: &Acknowledgment) -> bool {
        let accepted = &self.settings.accept_codes;
        answer.code == "CA" && !accepted.contains("CA") && accepted.contains("AA")
    }

    /// What an answer to the message means.
    fn verdict(&self, answer: &Acknowledgment) -> Result<(), Fault> {
        let code = answer.code.to_ascii_uppercase();
        if self.settings.accept_codes.contains(&code) {
            return Ok(());
        }
        // MSA-3 and ERR may name a patient: only codes are told.
        let error = answer.error.map(|n| format!(" with error {n}")).unwrap_or_default();
        let reason = format!("{} answered {code}{error}", self.peer());
        match code.as_str() {
            "AE" | "CE" if answer.error.is_some_and(|n| ERRORS_OF_THE_MESSAGE.contains(&n)) => {
                Err(Fault::Failed(reason))
            }
            "AE" | "CE" => Err(Fault::own(reason)),
            "AR" | "CR" => Err(Fault::Failed(reason)),
            "AA" | "CA" => Err(Fault::Failed(format!("{reason}, which accept_codes does not name"))),
            _ => Err(Fault::down(format!("{} answered with a code that is none", self.peer()))),
        }
    }

    fn silent(&self, silence: Silence) -> Fault {
        let peer = self.peer();
        Fault::down(match silence {
            Silence::Ended { reason, answered: false } => {
                format!("{peer} closed the connection without an answer: {reason}")
            }
            Silence::Ended { reason, answered: true } => {
                format!("{peer} closed the connection inside its answer: {reason}")
            }
            Silence::Late(reason) => {
                format!("no answer from {peer} within {:?}: {reason}", self.settings.timeout)
            }
            Silence::Garbage(reason) => format!("no sound answer from {peer}: {reason}"),
        })
    }
}

/// What has come while one answer is waited for.
#[derive(Default)]
struct Progress {
    /// Bytes of some answer.
    bytes: usize,
    /// Whole answers to other messages.
    foreign: usize,
    /// The commit acknowledgment came, the other has not.
    interim: bool,
}

impl Progress {
    /// The body of a frame; `None` for what is only odd.
    fn answer(&self, event: Event) -> Result<Option<Vec<u8>>, Silence> {
        match event {
            Event::Frame(body) => Ok(Some(body)),
            Event::Deviation { what: Deviation::NotMllp | Deviation::TlsOnPlain, .. } => {
                Err(Silence::Garbage("it does not speak MLLP".to_owned()))
            }
            Event::Deviation { .. } => Ok(None),
            Event::Quarantine { .. } => Err(Silence::Garbage("its answer was never ended".to_owned())),
            Event::Oversize { .. } => {
                Err(Silence::Garbage(format!("its answer is longer than {ANSWER_BYTES_MAX} bytes")))
            }
            Event::Close(cause) => Err(Silence::Garbage(cause.describe().to_owned())),
        }
    }

    fn late(&self, in_frame: bool) -> Silence {
        Silence::Late(match self {
            Progress { interim: true, .. } => "it has only said that it received the message".to_owned(),
            Progress { foreign: 1.., .. } => "what it answered was for other messages".to_owned(),
            Progress { bytes: 1.., .. } if in_frame => "its answer was never ended".to_owned(),
            Progress { bytes: 1.., .. } => "what it sent is no MLLP frame".to_owned(),
            _ => "nothing came".to_owned(),
        })
    }
}

impl Connection {
    /// Waits for bytes, or for the decoder's own deadline, and gives what came of it.
    fn events(&mut self, deadline: Instant, progress: &mut Progress) -> Result<Vec<Event>, Silence> {
        let mut events = Vec::new();
        let due = self.decoder.deadline_ms().map(|ms| self.began + Duration::from_millis(ms));
        let until = due.map_or(deadline, |due| due.min(deadline));
        let mut buffer = [0; 8192];
        match self.stream.read(&mut buffer, until) {
            Ok(0) => {
                self.decoder.end(self.now_ms(), &mut events);
                if events.is_empty() {
                    let reason = "end of the stream".to_owned();
                    return Err(Silence::Ended { reason, answered: progress.bytes > 0 });
                }
            }
            Ok(n) => {
                progress.bytes += n;
                self.decoder.feed(&buffer[..n], self.now_ms(), &mut events);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                self.decoder.tick(self.now_ms(), &mut events);
                if events.is_empty() && Instant::now() >= deadline {
                    return Err(progress.late(self.decoder.in_frame()));
                }
            }
            Err(error) => {
                return Err(Silence::Ended { reason: plain(&error), answered: progress.bytes > 0 });
            }
        }
        Ok(events)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests;
