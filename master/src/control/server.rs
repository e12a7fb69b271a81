//! The server's side of the control socket: bounded connections, requests and waits, all polled.

use super::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response, SOCKET};
use link::codec::{self, CodecFault, Deframer};
use nix::unistd::Group;
use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections at the same time; more wait in the backlog.
const CONNECTIONS_MAX: usize = 32;
const BACKLOG: i32 = 64;
/// A connection on which nothing moves for that long is closed: `status --watch` asks every second or so.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Owner and group ask; others do not.
const SOCKET_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP).union(Mode::WGRP);
/// Whose members may ask.
const GROUP: &str = "hl7server";
const READ_BYTES: usize = 16 * 1024;

/// A connection, for as long as the server runs.
pub(crate) type ConnectionId = u64;

/// The open socket and its connections.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    listener: OwnedFd,
    connections: BTreeMap<ConnectionId, Connection>,
    last_connection: ConnectionId,
    denied: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// Process and user at the other end, as the kernel knew them when they connected.
    peer: (u32, u32),
    deframer: Deframer,
    /// The response on its way, and how much of it is sent.
    response: Option<(Vec<u8>, usize)>,
    /// A request was handed out and not answered yet: the next one is not read before.
    asked: bool,
    /// The next request may be here already, so that polling would not tell of it.
    more: bool,
    moved_at: Duration,
}

/// Why the socket was not opened.
#[derive(Debug)]
pub(crate) enum ControlFault {
    /// Another server answers there.
    Taken(PathBuf),
    /// The system's word.
    Io(PathBuf, io::Error),
}

impl fmt::Display for ControlFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(path) => write!(f, "another server answers at \"{}\"", path.display()),
            Self::Io(path, e) => write!(f, "could not open control socket \"{}\": {e}", path.display()),
        }
    }
}

/// What became of a connection in this turn.
enum Turn {
    Open,
    Closed,
}

impl Control {
    /// Opens the socket below `runtime_path`, which is made where it is missing. What a dead server left there is
    /// replaced; a living one is not disturbed. Its owner alone may ask so far.
    pub(crate) fn open(runtime_path: &Path) -> Result<Self, ControlFault> {
        let path = runtime_path.join(SOCKET);
        let listener = listener(&path)?;
        Ok(Self { path, listener, connections: BTreeMap::new(), last_connection: 0, denied: Vec::new() })
    }

    /// Listens below another folder from now on; connections stay.
    pub(crate) fn move_to(&mut self, runtime_path: &Path) -> Result<(), ControlFault> {
        let path = runtime_path.join(SOCKET);
        self.listener = listener(&path)?;
        let _ = std::fs::remove_file(std::mem::replace(&mut self.path, path));
        self.let_group_in();
        Ok(())
    }

    /// Lets the group ask, too. Apart from [`Control::open`], since looking a group up may go through all that the system
    /// knows of groups: at a start the workers do not wait for it.
    pub(crate) fn let_group_in(&self) {
        let group = Group::from_name(GROUP).ok().flatten();
        if let Some(group) = group
            && let Err(e) = std::os::unix::fs::chown(&self.path, None, Some(group.gid.as_raw()))
        {
            // As an ordinary user who is not in it: then it stays with the user's own group.
            log::debug!("could not give \"{}\" to group {GROUP}: {e}", self.path.display());
        }
    }

    /// What to poll: the listener, unless there are connections enough, then each connection with what it waits for.
    pub(crate) fn interest(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let accept = self.connections.len() < CONNECTIONS_MAX;
        let listener = accept.then(|| (self.listener.as_fd(), PollFlags::IN));
        listener.into_iter().chain(self.connections.values().map(|connection| {
            let flags = match (&connection.response, connection.asked) {
                (Some(_), _) => PollFlags::OUT,
                // Only to learn of its end.
                (None, true) => PollFlags::RDHUP,
                (None, false) => PollFlags::IN,
            };
            (connection.socket.as_fd(), flags)
        }))
    }

    /// Never blocks: accepts, reads, writes and closes whatever is due. Gives the requests that came whole.
    /// `is_worker` tells the pids that may not ask.
    pub(crate) fn turn(
        &mut self,
        now: Duration,
        is_worker: impl Fn(u32) -> bool,
    ) -> Vec<(ConnectionId, Request)> {
        self.accept(now, is_worker);
        let mut requests = Vec::new();
        self.connections.retain(|&id, connection| {
            let open = matches!(connection.write(now), Turn::Open)
                && matches!(connection.read(now, |request| requests.push((id, request))), Turn::Open);
            open && now < connection.moved_at + IDLE_MAX
        });
        requests
    }

    /// Sends a response; the connection may be gone.
    pub(crate) fn respond(&mut self, id: ConnectionId, response: &Response, now: Duration) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let frame = codec::encode(response, RESPONSE_BYTES_MAX)
            .or_else(|fault| codec::encode(&Response::Error(fault.to_string()), RESPONSE_BYTES_MAX));
        let Ok(frame) = frame else { return };
        connection.asked = false;
        connection.response = Some((frame, 0));
        if let Turn::Closed = connection.write(now) {
            self.connections.remove(&id);
        }
    }

    /// Process and user that asked; `None` when they are gone.
    pub(crate) fn peer(&self, id: ConnectionId) -> Option<(u32, u32)> {
        self.connections.get(&id).map(|connection| connection.peer)
    }

    /// Workers that tried to ask, as process and user, since this was last taken.
    pub(crate) fn take_denied(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.denied)
    }

    /// When a turn is due though nothing moved.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let due = |connection: &Connection| {
            let at_once = connection.more && !connection.asked && connection.response.is_none();
            if at_once { Duration::ZERO } else { connection.moved_at + IDLE_MAX }
        };
        self.connections.values().map(due).min()
    }

    fn accept(&mut self, now: Duration, is_worker: impl Fn(u32) -> bool) {
        while self.connections.len() < CONNECTIONS_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(e) => return log::warn!("could not accept on the control socket: {e}"),
            };
            let peer = match sockopt::socket_peercred(&socket) {
                Ok(peer) => (peer.pid.as_raw_nonzero().get().unsigned_abs(), peer.uid.as_raw()),
                Err(e) => {
                    log::warn!("could not tell who connected to the control socket: {e}");
                    continue;
                }
            };
            if is_worker(peer.0) {
                log::error!("worker {} connected to the control socket: refused", peer.0);
                self.denied.extend((self.denied.len() < CONNECTIONS_MAX).then_some(peer));
                continue;
            }
            self.last_connection += 1;
            let deframer = Deframer::new(REQUEST_BYTES_MAX);
            let connection = Connection {
                socket,
                peer,
                deframer,
                response: None,
                asked: false,
                more: false,
                moved_at: now,
            };
            self.connections.insert(self.last_connection, connection);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Connection {
    fn write(&mut self, now: Duration) -> Turn {
        while let Some((frame, sent)) = &mut self.response {
            match rustix::net::send(&self.socket, &frame[*sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            {
                Ok(bytes) => {
                    *sent += bytes;
                    self.moved_at = now;
                    if *sent == frame.len() {
                        self.response = None;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Turn::Open,
                Err(_) => return Turn::Closed,
            }
        }
        Turn::Open
    }

    /// Hands out one request at most; the next one waits for its response.
    fn read(&mut self, now: Duration, request: impl FnOnce(Request)) -> Turn {
        if self.asked || self.response.is_some() {
            return if self.is_at_its_end() { Turn::Closed } else { Turn::Open };
        }
        loop {
            match self.deframer.take() {
                Ok(Some(asked)) => {
                    (self.asked, self.more) = (true, true);
                    request(asked);
                    return Turn::Open;
                }
                Ok(None) => self.more = false,
                Err(fault) => return self.refuse(&fault),
            }
            let mut buffer = [0; READ_BYTES];
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Turn::Closed,
                Ok((_, bytes)) => {
                    self.moved_at = now;
                    self.deframer.push(&buffer[..bytes]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Turn::Open,
                Err(_) => return Turn::Closed,
            }
        }
    }

    fn is_at_its_end(&self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        match rustix::net::recv(&self.socket, &mut [0u8; 1][..], flags) {
            Ok((_, bytes)) => bytes == 0,
            Err(e) => e != Errno::AGAIN && e != Errno::INTR,
        }
    }

    /// The stream is out of step: say so, as far as the socket takes it at once, and close.
    fn refuse(&self, fault: &CodecFault) -> Turn {
        let response = Response::Error(format!("not a request: {fault}"));
        if let Ok(frame) = codec::encode(&response, RESPONSE_BYTES_MAX) {
            let _ = rustix::net::send(&self.socket, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        Turn::Closed
    }
}

fn listener(path: &Path) -> Result<OwnedFd, ControlFault> {
    let fault = |e: io::Error| ControlFault::Io(path.to_owned(), e);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fault)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(ControlFault::Taken(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fault)?
        }
        // Anything else that is wrong with it, bind says.
        Err(_) => {}
    }
    bind(path).map_err(|e| fault(e.into()))
}

fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before bind, so that there is no moment with other permissions; again after it, since the umask takes the group's.
    rustix::fs::fchmod(&socket, SOCKET_MODE)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, SOCKET_MODE)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CallFault, call};
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::thread;
    use std::time::Instant;

    const SOON: Duration = Duration::from_secs(5);

    /// Serves until `done`, answering each request with an error that names it.
    fn serve(control: &mut Control, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < SOON);
            for (id, request) in control.turn(Duration::ZERO, |_| false) {
                control.respond(id, &Response::Error(format!("{request:?}")), Duration::ZERO);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_call_is_answered_and_the_socket_is_for_owner_and_group() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("run");
        let mut control = Control::open(&runtime).unwrap();
        let mode = std::fs::metadata(runtime.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let client = thread::spawn(move || call(&runtime, &Request::Reload, SOON));
        serve(&mut control, || client.is_finished());
        assert_eq!(client.join().unwrap().unwrap(), Response::Error("Reload".to_owned()));
    }

    #[test]
    fn a_dead_servers_socket_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = Control::open(folder.path()).unwrap();
        assert!(matches!(Control::open(folder.path()), Err(ControlFault::Taken(_))));
        drop(first);
        // Dead without a chance to remove it.
        drop(std::os::unix::net::UnixListener::bind(folder.path().join(SOCKET)).unwrap());
        drop(Control::open(folder.path()).unwrap());
        assert!(matches!(call(folder.path(), &Request::Reload, SOON), Err(CallFault::NotRunning(_))));
    }

    #[test]
    fn a_socket_that_moves_keeps_its_connections() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let mut control = Control::open(&here).unwrap();
        let _asks = UnixStream::connect(here.join(SOCKET)).unwrap();
        control.turn(Duration::ZERO, |_| false);
        control.move_to(&there).unwrap();
        assert!(!here.join(SOCKET).exists() && there.join(SOCKET).exists());
        assert_eq!(control.connections.len(), 1);
    }

    #[test]
    fn a_worker_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = Control::open(folder.path()).unwrap();
        let mut stream = UnixStream::connect(folder.path().join(SOCKET)).unwrap();
        assert!(control.turn(Duration::ZERO, |pid| pid == std::process::id()).is_empty());
        assert_eq!(control.take_denied().len(), 1);
        assert!(control.connections.is_empty());
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }

    #[test]
    fn junk_is_told_so_and_slow_or_many_connections_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = Control::open(folder.path()).unwrap();
        let connect = || UnixStream::connect(folder.path().join(SOCKET)).unwrap();
        let mut junk = connect();
        junk.write_all(b"\xff\xff\xff\xff").unwrap();
        control.turn(Duration::ZERO, |_| false);
        let mut text = Vec::new();
        junk.read_to_end(&mut text).unwrap();
        assert!(String::from_utf8_lossy(&text).contains("not a request"));

        let mut slow: Vec<_> = (0..CONNECTIONS_MAX + 5).map(|_| connect()).collect();
        slow[0].write_all(b"\x10").unwrap();
        control.turn(Duration::ZERO, |_| false);
        assert_eq!(control.connections.len(), CONNECTIONS_MAX);
        assert_eq!(control.interest().count(), CONNECTIONS_MAX);
        assert_eq!(control.deadline(), Some(IDLE_MAX));
        control.turn(IDLE_MAX, |_| false);
        assert!(control.connections.is_empty());
    }

    #[test]
    fn requests_of_one_connection_are_answered_in_order_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut control = Control::open(folder.path()).unwrap();
        let mut stream = UnixStream::connect(folder.path().join(SOCKET)).unwrap();
        let ask = |channel: &str| {
            codec::encode(&Request::Status { channel: Some(channel.to_owned()) }, REQUEST_BYTES_MAX).unwrap()
        };
        stream.write_all(&[ask("a"), ask("b")].concat()).unwrap();
        let turn = |control: &mut Control| control.turn(Duration::ZERO, |_| false);
        let first = turn(&mut control);
        assert_eq!(first.len(), 1);
        assert!(turn(&mut control).is_empty());
        assert_eq!(control.deadline(), Some(IDLE_MAX));
        control.respond(first[0].0, &Response::Error("one".to_owned()), Duration::ZERO);
        assert_eq!(control.deadline(), Some(Duration::ZERO));
        let second = turn(&mut control);
        assert_eq!(second, [(first[0].0, Request::Status { channel: Some("b".to_owned()) })]);
        drop(stream);
        turn(&mut control);
        assert!(control.connections.is_empty());
    }
}
