//! A TDS peer by script: real enough that the client logs in, with and without TLS, runs statements and transactions,
//! and as unreal as a test wants at any stage. What it saw is kept.

pub mod packets;
pub mod requests;
pub mod tokens;

use packets::{ANSWER, PRELOGIN, Wrapped, packets, read_message};
use requests::{Seen, Statement, request, wanted_encryption};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokens::ServerError;

/// What the server says of encryption.
pub const ENCRYPT_OFF: u8 = 0;
pub const ENCRYPT_ON: u8 = 1;
pub const ENCRYPT_NOT_SUP: u8 = 2;
pub const ENCRYPT_REQ: u8 = 3;

/// Where in a connection's life something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Accepted,
    Prelogin,
    Handshake,
    Login,
    /// At the first request after the login, which sets the session up.
    Setup,
    Request,
}

/// What the peer does there instead of answering.
#[derive(Clone)]
pub enum Trouble {
    HangUp,
    /// Says nothing until the client goes.
    Silence,
    /// These bytes as they are, then hangs up.
    Bytes(Vec<u8>),
    /// One byte of a true answer every so often.
    Drip(Duration),
    /// Packets of this payload without end.
    Flood(Vec<u8>),
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::HangUp => f.write_str("hang up"),
            Trouble::Silence => f.write_str("silence"),
            Trouble::Drip(pause) => write!(f, "drip {pause:?}"),
            Trouble::Bytes(bytes) => write!(f, "bytes {:x?}…", &bytes[..bytes.len().min(16)]),
            Trouble::Flood(bytes) => write!(f, "flood {:x?}…", &bytes[..bytes.len().min(16)]),
        }
    }
}

/// What a request gets.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Tokens, sent in packets.
    Tokens(Vec<u8>),
    Trouble(Trouble),
}

/// What a connection (its number) gets for a request; `None` is the ordinary answer. Asked for [`Seen::Gone`] too, whose
/// answer nobody hears.
type Answers = dyn Fn(usize, &Seen) -> Option<Answer> + Send + Sync;

/// How a peer behaves.
pub struct Script {
    pub encryption: u8,
    pub identity: Option<native_tls::Identity>,
    pub trouble: Option<(Stage, Trouble)>,
    pub refuse_login: Option<ServerError>,
    pub route_to: Option<(String, u16)>,
    pub answers: Box<Answers>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            encryption: ENCRYPT_NOT_SUP,
            identity: None,
            trouble: None,
            refuse_login: None,
            route_to: None,
            answers: Box::new(|_, _| None),
        }
    }
}

impl Script {
    /// Gives each statement that answer.
    pub fn answering(answer: impl Fn(&Statement) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let answers = move |_, seen: &Seen| match seen {
            Seen::Statement(statement) => Some(Answer::Tokens(answer(statement))),
            _ => None,
        };
        Self { answers: Box::new(answers), ..Self::default() }
    }
}

/// A peer at a port of its own; ends with its value.
pub struct Peer {
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    pub fn start(script: Script) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let script = Arc::new(script);
        let thread = std::thread::spawn({
            let (seen, sockets, stopping) = (Arc::clone(&seen), Arc::clone(&sockets), Arc::clone(&stopping));
            move || {
                for (number, socket) in listener.incoming().enumerate() {
                    let Ok(socket) = socket else { continue };
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    sockets.lock().unwrap().push(socket.try_clone().unwrap());
                    let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
                    std::thread::spawn(move || {
                        let Ok(line) = socket.try_clone() else { return };
                        // A client that goes away in the middle is a client's right.
                        let _ = Conversation { number, script: &script, seen: &seen }.run(socket);
                        let _ = (script.answers)(number, &Seen::Gone);
                        // The value keeps a handle of its own, which would leave the line open.
                        let _ = line.shutdown(Shutdown::Both);
                        seen.lock().unwrap().push(Seen::Gone);
                    });
                }
            }
        });
        Self { port, seen, sockets, stopping, thread: Some(thread) }
    }

    /// What it saw so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The statements it saw so far.
    pub fn statements(&self) -> Vec<Statement> {
        let statement = |seen| match seen {
            Seen::Statement(statement) => Some(statement),
            _ => None,
        };
        self.seen().into_iter().filter_map(statement).collect()
    }

    /// How many logins it saw.
    pub fn logins(&self) -> usize {
        self.seen().iter().filter(|seen| matches!(seen, Seen::Login { .. })).count()
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.cut();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.cut();
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

struct Conversation<'a> {
    number: usize,
    script: &'a Script,
    seen: &'a Mutex<Vec<Seen>>,
}

impl Conversation<'_> {
    fn run(&self, mut socket: TcpStream) -> io::Result<()> {
        if self.troubled(Stage::Accepted, &mut socket, &[])? {
            return Ok(());
        }
        let Some((PRELOGIN, wanted)) = read_message(&mut socket)? else { return Ok(()) };
        let answer = packets(ANSWER, &tokens::prelogin(self.script.encryption));
        if self.troubled(Stage::Prelogin, &mut socket, &answer)? {
            return Ok(());
        }
        socket.write_all(&answer)?;
        let wanted = wanted_encryption(&wanted);
        let encrypted = matches!(
            (wanted, self.script.encryption),
            (ENCRYPT_ON | ENCRYPT_REQ, ENCRYPT_ON | ENCRYPT_REQ) | (ENCRYPT_OFF, ENCRYPT_REQ)
        );
        if !encrypted {
            return self.session(&mut socket, false);
        }
        if self.troubled(Stage::Handshake, &mut socket, &[])? {
            return Ok(());
        }
        let identity = self.script.identity.clone().expect("an encrypting script has an identity");
        let acceptor = native_tls::TlsAcceptor::new(identity).map_err(io::Error::other)?;
        let mut stream =
            acceptor.accept(Wrapped::new(socket)).map_err(|e| io::Error::other(e.to_string()))?;
        stream.get_mut().flush()?;
        stream.get_mut().open();
        self.session(&mut stream, true)
    }

    fn session(&self, stream: &mut dyn Duplex, tls: bool) -> io::Result<()> {
        let Some(login) = self.next(stream, tls)? else { return Ok(()) };
        let Seen::Login { database, .. } = login else { panic!("a login is expected, not {login:?}") };
        let answer = match (&self.script.refuse_login, &self.script.route_to) {
            (Some(error), _) => tokens::login_refused(error),
            (None, Some((host, port))) => tokens::login_routed(host, *port),
            (None, None) => tokens::login_granted(&database),
        };
        let answer = packets(ANSWER, &answer);
        if self.troubled(Stage::Login, stream, &answer)? {
            return Ok(());
        }
        stream.write_all(&answer)?;
        let mut stage = Stage::Setup;
        while let Some(seen) = self.next(stream, tls)? {
            let answer = match (self.script.answers)(self.number, &seen).unwrap_or_else(|| ordinary(&seen)) {
                Answer::Tokens(tokens) => packets(ANSWER, &tokens),
                Answer::Trouble(trouble) => return cause(&trouble, stream, &[]),
            };
            if self.troubled(stage, stream, &answer)? {
                return Ok(());
            }
            stream.write_all(&answer)?;
            stage = Stage::Request;
        }
        Ok(())
    }

    fn next(&self, stream: &mut dyn Duplex, tls: bool) -> io::Result<Option<Seen>> {
        let Some((kind, payload)) = read_message(&mut &mut *stream)? else { return Ok(None) };
        let seen = request(kind, &payload, tls);
        self.seen.lock().unwrap().push(seen.clone());
        Ok(Some(seen))
    }

    fn troubled(&self, stage: Stage, stream: &mut dyn Duplex, answer: &[u8]) -> io::Result<bool> {
        match &self.script.trouble {
            Some((at, trouble)) if *at == stage => cause(trouble, stream, answer).map(|()| true),
            _ => Ok(false),
        }
    }
}

fn ordinary(seen: &Seen) -> Answer {
    Answer::Tokens(match seen {
        Seen::Statement(_) => tokens::affected(1),
        Seen::Batch(sql) => match sql.as_str() {
            "BEGIN TRANSACTION" => tokens::transaction(8),
            "COMMIT TRANSACTION" => tokens::transaction(9),
            sql if sql.ends_with("ROLLBACK TRANSACTION") => tokens::transaction(10),
            _ => tokens::batch_done(),
        },
        Seen::Login { .. } | Seen::Gone => Vec::new(),
    })
}

fn cause(trouble: &Trouble, stream: &mut dyn Duplex, answer: &[u8]) -> io::Result<()> {
    match trouble {
        Trouble::HangUp => Ok(()),
        Trouble::Silence => io::copy(&mut &mut *stream, &mut io::sink()).map(drop),
        Trouble::Bytes(bytes) => stream.write_all(bytes),
        Trouble::Drip(pause) => answer.iter().try_for_each(|byte| {
            std::thread::sleep(*pause);
            stream.write_all(&[*byte])
        }),
        Trouble::Flood(payload) => {
            // Never the last packet of the answer.
            let mut packet = packets(ANSWER, payload);
            packet[1] = 0;
            loop {
                stream.write_all(&packet)?;
            }
        }
    }
}
