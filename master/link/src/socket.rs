//! A link's two ends: a stream socket pair over which orders go down and reports come up.
//!
//! Every call that must not block says so with a flag of its own (`MSG_DONTWAIT`), so the descriptor's mode does not
//! matter and blocking and non-blocking calls may be mixed: a worker waits for its [`Start`], then polls.

use crate::codec::{self, CodecFault, Deframer};
use crate::{Order, Report, Start};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A report's JSON. Counters of a channel take some 5 KiB; the longest answer is cut to fit.
const REPORT_BYTES_MAX: usize = 1024 * 1024;
/// An order's JSON. The settings of a channel are a few KiB; a configuration file is at most 8 MiB.
const ORDER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes queued for a peer that does not read.
const QUEUE_BYTES_MAX: usize = 2 * ORDER_BYTES_MAX;
/// Bytes taken from one worker in one turn, so that none can keep the master busy.
const TURN_BYTES_MAX: usize = REPORT_BYTES_MAX;
const READ_BYTES: usize = 64 * 1024;
/// Descriptors received with one order; [`Start`] brings two.
const DESCRIPTORS_MAX: usize = 16;

/// Why a link is at its end. None of these passes: drop the endpoint.
#[derive(Debug)]
pub enum LinkError {
    /// The other end is closed.
    Closed,
    /// The other end sent what the contract does not allow.
    Breach(CodecFault),
    /// The other end does not read, and too much waits for it.
    Backlog,
    /// Nothing came in time (only from calls that take a time-out).
    TimedOut,
    /// The system's word.
    Io(io::Error),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "link closed"),
            Self::Breach(fault) => write!(f, "{fault}"),
            Self::Backlog => write!(f, "the other end does not read"),
            Self::TimedOut => write!(f, "timed out"),
            Self::Io(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<Errno> for LinkError {
    fn from(e: Errno) -> Self {
        match e {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            _ => Self::Io(e.into()),
        }
    }
}

impl From<CodecFault> for LinkError {
    fn from(fault: CodecFault) -> Self {
        Self::Breach(fault)
    }
}

/// What travels over a link. Sealed: orders and reports.
pub trait Message: Serialize + DeserializeOwned + sealed::Sealed {
    #[doc(hidden)]
    const BYTES_MAX: usize;
    /// Whether descriptors are accepted with it.
    #[doc(hidden)]
    const DESCRIPTORS: bool;
    /// Bytes taken in one turn; orders come from the master, which is trusted, and to edge-triggered readers.
    #[doc(hidden)]
    const TURN_BYTES_MAX: usize;
    #[doc(hidden)]
    fn bound(&mut self);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Order {}
    impl Sealed for crate::Report {}
}

impl Message for Order {
    const BYTES_MAX: usize = ORDER_BYTES_MAX;
    const DESCRIPTORS: bool = true;
    const TURN_BYTES_MAX: usize = usize::MAX;
    fn bound(&mut self) {}
}

impl Message for Report {
    const BYTES_MAX: usize = REPORT_BYTES_MAX;
    const DESCRIPTORS: bool = false;
    const TURN_BYTES_MAX: usize = TURN_BYTES_MAX;
    fn bound(&mut self) {
        Report::bound(self);
    }
}

/// The master's end.
pub type MasterEnd = Endpoint<Order, Report>;
/// The worker's end.
pub type WorkerEnd = Endpoint<Report, Order>;

/// One end of a link, which sends `Out` and receives `In`.
#[derive(Debug)]
pub struct Endpoint<Out, In> {
    socket: OwnedFd,
    deframer: Deframer,
    /// Received and not yet taken.
    ready: VecDeque<In>,
    descriptors: Vec<OwnedFd>,
    /// The end of the link, told once everything before it was taken.
    broken: Option<LinkError>,
    outgoing: VecDeque<Outgoing>,
    outgoing_bytes: usize,
    sends: PhantomData<fn(Out)>,
}

#[derive(Debug)]
struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    /// Go with the frame's first byte.
    descriptors: Vec<OwnedFd>,
}

impl MasterEnd {
    /// A new link: the master's end, and the descriptor that becomes the worker's standard input.
    pub fn pair() -> io::Result<(MasterEnd, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self::from_socket(ours), theirs))
    }
}

impl WorkerEnd {
    /// Takes the link from standard input and puts `/dev/null` there.
    pub fn from_stdin() -> io::Result<WorkerEnd> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(Self::from_socket(socket))
    }

    /// Waits for the first order, which must be [`Start`], and what comes with it: listener, slot table.
    pub fn recv_start(&mut self, timeout: Duration) -> Result<(Start, Vec<OwnedFd>), LinkError> {
        match self.recv(timeout)? {
            Order::Start(start) => Ok((start, self.take_descriptors())),
            other => {
                let what = format!("the first order is not a start: {other:?}");
                Err(LinkError::Breach(CodecFault::Malformed(what)))
            }
        }
    }
}

/// Whether standard input is a unix stream socket, as a worker's is.
pub fn stdin_is_link() -> bool {
    let stdin = io::stdin();
    sockopt::socket_domain(stdin.as_fd()) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(stdin.as_fd()) == Ok(SocketType::STREAM)
}

impl<Out: Message, In: Message> Endpoint<Out, In> {
    /// An end over a connected unix stream socket.
    pub fn from_socket(socket: OwnedFd) -> Self {
        Self {
            socket,
            deframer: Deframer::new(In::BYTES_MAX),
            ready: VecDeque::new(),
            descriptors: Vec::new(),
            broken: None,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            sends: PhantomData,
        }
    }

    /// For polling.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Never blocks: what has come. The master, which polls by level, takes at most 1 MiB in one turn. A worker that polls
    /// by edge calls it until it gives nothing: a link that ended gives what came before its end first, and the error by
    /// the next call.
    pub fn read_ready(&mut self) -> Result<Vec<In>, LinkError> {
        let mut taken = 0;
        while self.broken.is_none() && taken < In::TURN_BYTES_MAX {
            match self.read_some() {
                Ok(Some(bytes)) => taken += bytes,
                Ok(None) => break,
                Err(e) => self.broken = Some(e),
            }
        }
        match self.broken.take() {
            Some(e) if self.ready.is_empty() => Err(e),
            broken => {
                self.broken = broken;
                Ok(self.ready.drain(..).collect())
            }
        }
    }

    /// Queues a message; [`Self::write_ready`] sends it.
    pub fn queue(&mut self, message: &Out) -> Result<(), LinkError> {
        self.queue_with(message, Vec::new())
    }

    /// Queues a message that brings descriptors.
    pub fn queue_with(&mut self, message: &Out, descriptors: Vec<OwnedFd>) -> Result<(), LinkError> {
        debug_assert!(descriptors.is_empty() || Out::DESCRIPTORS, "reports bring no descriptors");
        debug_assert!(descriptors.len() <= DESCRIPTORS_MAX, "more descriptors than the other end takes");
        let frame = codec::encode(message, Out::BYTES_MAX)?;
        if self.outgoing_bytes + frame.len() > QUEUE_BYTES_MAX {
            return Err(LinkError::Backlog);
        }
        self.outgoing_bytes += frame.len();
        self.outgoing.push_back(Outgoing { frame, sent: 0, descriptors });
        Ok(())
    }

    /// Never blocks: sends what is queued; true once nothing is left.
    pub fn write_ready(&mut self) -> Result<bool, LinkError> {
        while let Some(front) = self.outgoing.front_mut() {
            match send_some(&self.socket, front) {
                Ok(bytes) => {
                    front.sent += bytes;
                    self.outgoing_bytes -= bytes;
                    front.descriptors.clear();
                    if front.sent == front.frame.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(true)
    }

    /// Whether something is queued: poll for writing.
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Blocks until `message`, and all queued before it, is handed to the system, or `timeout` has passed.
    pub fn send(&mut self, message: &Out, timeout: Duration) -> Result<(), LinkError> {
        self.queue(message)?;
        let deadline = Instant::now() + timeout;
        while !self.write_ready()? {
            self.wait(PollFlags::OUT, deadline)?;
        }
        Ok(())
    }

    /// Blocks until a message is there or `timeout` has passed.
    pub fn recv(&mut self, timeout: Duration) -> Result<In, LinkError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            if self.read_some()?.is_none() {
                self.wait(PollFlags::IN, deadline)?;
            }
        }
    }

    /// The descriptors received so far, in their order.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> Result<(), LinkError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(LinkError::TimedOut);
        }
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads once and parses what is whole by then; `None` when there is nothing to read.
    fn read_some(&mut self) -> Result<Option<usize>, LinkError> {
        let mut buffer = [0u8; READ_BYTES];
        let bytes = match self.receive(&mut buffer) {
            Ok(0) => return Err(LinkError::Closed),
            Ok(bytes) => bytes,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => return Ok(Some(0)),
            Err(e) => return Err(e.into()),
        };
        self.deframer.push(&buffer[..bytes]);
        while let Some(mut message) = self.deframer.take::<In>()? {
            message.bound();
            self.ready.push_back(message);
        }
        Ok(Some(bytes))
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if !In::DESCRIPTORS {
            // A plain receive: the kernel closes descriptors that come uninvited.
            return Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT)?.1);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(buffer)];
        let received = rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }
}

fn send_some(socket: &OwnedFd, next: &Outgoing) -> Result<usize, Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let rest = &next.frame[next.sent..];
    if next.descriptors.is_empty() {
        return rustix::net::send(socket, rest, flags);
    }
    let descriptors: Vec<BorrowedFd<'_>> = next.descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(fits, "the space is that of the most descriptors");
    rustix::net::sendmsg(socket, &[IoSlice::new(rest)], &mut control, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Question;
    use std::io::{Read, Seek, Write};

    const SOON: Duration = Duration::from_secs(5);

    fn pair() -> (MasterEnd, WorkerEnd) {
        let (master, theirs) = MasterEnd::pair().unwrap();
        (master, WorkerEnd::from_socket(theirs))
    }

    fn start(settings: String) -> Order {
        Order::Start(Start {
            settings,
            secrets: Default::default(),
            files: Default::default(),
            slot_owner: 7,
            journald: false,
            log_level: "info".to_owned(),
            predecessor: None,
        })
    }

    #[test]
    fn a_start_larger_than_the_socket_buffer_arrives_with_its_descriptors() {
        let (mut master, mut worker) = pair();
        let settings = "x".repeat(3_000_000);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"listener").unwrap();
        master.queue_with(&start(settings.clone()), vec![file.into()]).unwrap();
        master.queue(&Order::LogStatus).unwrap();
        assert!(!master.write_ready().unwrap());
        let sender = std::thread::spawn(move || {
            while !master.write_ready().unwrap() {
                master.wait(PollFlags::OUT, Instant::now() + SOON).unwrap();
            }
            master
        });
        let (start, mut descriptors) = worker.recv_start(SOON).unwrap();
        assert_eq!(start.settings, settings);
        assert_eq!(descriptors.len(), 1);
        let mut file = std::fs::File::from(descriptors.remove(0));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "listener");
        assert_eq!(worker.recv(SOON).unwrap(), Order::LogStatus);
        assert!(!sender.join().unwrap().wants_write());
    }

    #[test]
    fn what_came_before_the_end_is_given_before_the_error() {
        let (mut master, mut worker) = pair();
        worker.send(&Report::Status(Box::default()), SOON).unwrap();
        worker.send(&Report::CannotStart { reason: "no\nroom".to_owned() }, SOON).unwrap();
        drop(worker);
        let reports = master.read_ready().unwrap();
        let cleaned = Report::CannotStart { reason: "no?room".to_owned() };
        assert_eq!(reports, [Report::Status(Box::default()), cleaned]);
        assert!(matches!(master.read_ready(), Err(LinkError::Closed)));
        assert!(matches!(master.read_ready(), Err(LinkError::Closed)));
        assert!(matches!(master.send(&Order::LogStatus, SOON), Err(LinkError::Closed)));
    }

    #[test]
    fn a_worker_that_never_reads_is_a_backlog_not_a_block() {
        let (mut master, _worker) = pair();
        let order = start("x".repeat(10_000_000));
        let full = (0..10).find_map(|_| master.queue(&order).err());
        assert!(matches!(full, Some(LinkError::Backlog)));
        assert!(!master.write_ready().unwrap());
    }

    #[test]
    fn a_report_that_breaks_the_contract_ends_the_link() {
        let oversize = ((REPORT_BYTES_MAX + 1) as u32).to_le_bytes().to_vec();
        let unknown = codec::encode(&"Surprise", 100).unwrap();
        for bytes in [oversize, unknown] {
            let (mut master, theirs) = MasterEnd::pair().unwrap();
            rustix::io::write(&theirs, &bytes).unwrap();
            assert!(matches!(master.read_ready(), Err(LinkError::Breach(_))));
        }
    }

    #[test]
    fn a_turn_takes_a_bounded_number_of_bytes() {
        let (mut master, mut worker) = pair();
        let flood =
            std::thread::spawn(move || while worker.send(&Report::Status(Box::default()), SOON).is_ok() {});
        for _ in 0..20 {
            master.wait(PollFlags::IN, Instant::now() + SOON).unwrap();
            let bytes = codec::encode(&Report::Status(Box::default()), 1 << 20).unwrap().len();
            assert!(master.read_ready().unwrap().len() * bytes <= TURN_BYTES_MAX + READ_BYTES + bytes);
        }
        drop(master);
        flood.join().unwrap();
    }

    #[test]
    fn descriptors_that_come_uninvited_are_not_kept() {
        let (mut master, theirs) = MasterEnd::pair().unwrap();
        let mut liar = Endpoint::<Order, Report>::from_socket(theirs);
        let (ours, observed) = std::io::pipe().unwrap();
        liar.queue_with(&Order::LogStatus, vec![observed.into()]).unwrap();
        assert!(liar.write_ready().unwrap());
        assert!(matches!(master.read_ready(), Err(LinkError::Breach(_))));
        // No writer is left, so the pipe is at its end.
        assert_eq!((&ours).read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn waiting_for_an_order_ends_in_time() {
        let (mut master, mut worker) = pair();
        assert!(matches!(worker.recv(Duration::from_millis(20)), Err(LinkError::TimedOut)));
        assert!(worker.read_ready().unwrap().is_empty());
        master.send(&Order::Ask { id: 1, question: Question::Peers }, SOON).unwrap();
        assert_eq!(worker.recv(SOON).unwrap(), Order::Ask { id: 1, question: Question::Peers });
    }
}
