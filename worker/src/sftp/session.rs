//! One SSH connection with its SFTP channel: the server proves who it is, we do, then files are spoken of.
//!
//! Every call waits at most `timeout`. Once a wait was in vain or the connection is gone, the socket is shut down at
//! once: libssh2 says goodbye to every open file, the channel and the server when they are dropped, and on a frozen
//! server each goodbye would wait one timeout more.

use super::known_hosts::{self, Verdict};
use super::{Settings, keys};
use crate::connect;
use crate::fault::Fault;
use ssh2::{ErrorCode, KeyboardInteractivePrompt, MethodType, Prompt};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// libssh2's error codes (libssh2.h) that are told apart here.
const TIMEOUT: i32 = -9;
const SOCKET_TIMEOUT: i32 = -30;
const SFTP_PROTOCOL: i32 = -31;
const AUTHENTICATION_FAILED: i32 = -18;
const PUBLICKEY_UNVERIFIED: i32 = -19;
const FILE: i32 = -16;
const KEYFILE_AUTH_FAILED: i32 = -48;

/// SFTP status codes (draft-ietf-secsh-filexfer, §7).
const NO_SUCH_FILE: i32 = 2;
const FAILURE: i32 = 4;
const BAD_MESSAGE: i32 = 5;
const NO_CONNECTION: i32 = 6;
const CONNECTION_LOST: i32 = 7;
const OP_UNSUPPORTED: i32 = 8;
const NO_SUCH_PATH: i32 = 10;
const ALREADY_EXISTS: i32 = 11;
const INVALID_NAME: i32 = 20;
const LINK_LOOP: i32 = 21;

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// No answer, or none that can be made sense of: the connection is useless and shut down.
    Lost(String),
    /// The server answered no.
    Refused(Refusal),
}

/// A server's no.
#[derive(Debug)]
pub struct Refusal {
    /// What it is about.
    pub kind: RefusalKind,
    /// In words.
    pub words: String,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such file or folder.
    Absent,
    /// The request is not known over there.
    Unsupported,
    /// This one name cannot be: others may.
    Name,
    /// Anything else: permission, space, quota, or a server that gives no reason.
    Other,
}

impl Refusal {
    fn of(code: i32, words: &str) -> Refusal {
        let kind = match code {
            NO_SUCH_FILE | NO_SUCH_PATH => RefusalKind::Absent,
            OP_UNSUPPORTED => RefusalKind::Unsupported,
            BAD_MESSAGE | ALREADY_EXISTS | INVALID_NAME | LINK_LOOP => RefusalKind::Name,
            _ => RefusalKind::Other,
        };
        let words = if code == FAILURE { "the server gives no reason" } else { words };
        Refusal { kind, words: words.to_owned() }
    }

    /// A no of our own finding.
    pub fn other(words: String) -> Trouble {
        Trouble::Refused(Refusal { kind: RefusalKind::Other, words })
    }
}

/// An open session.
pub struct Session {
    // Dropped in this order, after `drop` has shut the socket down.
    sftp: ssh2::Sftp,
    session: ssh2::Session,
    stream: TcpStream,
    /// The host key's type and fingerprint.
    pub host_key: String,
    /// The server knows `fsync@openssh.com`, as far as is known.
    pub flushes: bool,
    /// A folder that is there.
    pub folder: Option<String>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Session {
    /// Connects, checks the host key, and logs in.
    ///
    /// # Errors
    /// Each of them is for an operator to mend, without touching the message.
    pub fn open(settings: &Settings) -> Result<Session, Fault> {
        Opening { settings, peer: settings.peer() }.open().map_err(Fault::down)
    }

    /// The SFTP channel, for requests whose errors go through [`trouble`](Self::trouble).
    pub fn sftp(&self) -> &ssh2::Sftp {
        &self.sftp
    }

    /// What an error means. Unless the server answered, the connection is cut.
    pub fn trouble(&self, error: &ssh2::Error) -> Trouble {
        match error.code() {
            ErrorCode::SFTP(NO_CONNECTION | CONNECTION_LOST | 0) | ErrorCode::Session(_) => {
                self.cut();
                Trouble::Lost(words(error))
            }
            ErrorCode::SFTP(code) => Trouble::Refused(Refusal::of(code, error.message())),
        }
    }

    /// The same for what reading and writing a file give: they hide the server's code, and libssh2 remembers it.
    pub fn file_trouble(&self, error: &std::io::Error) -> Trouble {
        match ssh2::Error::last_session_error(&self.session) {
            Some(last) if last.code() == ErrorCode::Session(SFTP_PROTOCOL) => {
                let words = error.to_string();
                let code = if words == "failure" { FAILURE } else { -1 };
                Trouble::Refused(Refusal::of(code, &words))
            }
            Some(last) => self.trouble(&last),
            None => self.lost(error.to_string()),
        }
    }

    /// Gives the connection up for a reason of our own.
    pub fn lost(&self, reason: String) -> Trouble {
        self.cut();
        Trouble::Lost(reason)
    }

    /// What is at a path, a link itself and not what it leads to; `None` where there is nothing.
    ///
    /// # Errors
    /// The server does not say.
    pub fn look(&self, path: &str) -> Result<Option<ssh2::FileStat>, Trouble> {
        self.some(self.sftp.lstat(Path::new(path)))
    }

    /// Whether a folder is at a path, through links too: what leads to the folder is its administrator's.
    ///
    /// # Errors
    /// The server does not say.
    pub fn is_folder(&self, path: &str) -> Result<Option<bool>, Trouble> {
        Ok(self.some(self.sftp.stat(Path::new(path)))?.map(|stat| stat.is_dir()))
    }

    fn some<T>(&self, answer: Result<T, ssh2::Error>) -> Result<Option<T>, Trouble> {
        match answer.map_err(|error| self.trouble(&error)) {
            Ok(found) => Ok(Some(found)),
            Err(Trouble::Refused(Refusal { kind: RefusalKind::Absent, .. })) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A session on its way.
struct Opening<'a> {
    settings: &'a Settings,
    peer: String,
}

impl Opening<'_> {
    fn open(&self) -> Result<Session, String> {
        let folder = &self.settings.folder;
        let path = keys::known_hosts_path(folder)?;
        let known = keys::known_hosts(&path)?;
        let private = keys::private_keys(folder, self.settings.password.as_ref())?;
        let deadline = Instant::now() + folder.timeout;
        let mut session = ssh2::Session::new().map_err(|e| words(&e))?;
        session.set_timeout(milliseconds(folder.timeout));
        let algorithms = known.algorithms(&folder.server, folder.port);
        session.method_pref(MethodType::HostKey, &algorithms).map_err(|e| words(&e))?;
        let stream = connect::connect(&folder.server, folder.port, folder.timeout, deadline)
            .map_err(|why| format!("could not connect to {}: {why}", self.peer))?;
        // Behind `session`, so that it goes first.
        let guard = Guard(Some(stream.try_clone().map_err(|e| crate::files::plain(&e))?));
        session.set_tcp_stream(stream);
        session
            .handshake()
            .map_err(|e| format!("could not begin an SSH session with {}: {}", self.peer, words(&e)))?;
        let host_key = self.check_host_key(&session, &known, &path)?;
        self.log_in(&session, &private)?;
        let sftp = session.sftp().map_err(|e| {
            format!("{} lets user {:?} in but gives no SFTP: {}", self.peer, folder.user, words(&e))
        })?;
        let stream = guard.release();
        Ok(Session { sftp, session, stream, host_key, flushes: true, folder: None })
    }

    fn check_host_key(
        &self,
        session: &ssh2::Session,
        known: &known_hosts::KnownHosts,
        path: &Path,
    ) -> Result<String, String> {
        let (server, port) = (&self.settings.folder.server, self.settings.folder.port);
        let (key, _) = session.host_key().ok_or_else(|| format!("{} shows no host key", self.peer))?;
        let kind =
            known_hosts::kind(key).ok_or_else(|| format!("{} shows an unreadable host key", self.peer))?;
        let shown = format!("{kind} {}", known_hosts::fingerprint(key));
        let peer = &self.peer;
        match known.verdict(server, port, key) {
            Verdict::Known => Ok(shown),
            Verdict::Unknown => {
                let line = known_hosts::line(server, port, key).unwrap_or_default();
                Err(format!(
                    "the host key of {peer} is not known: {shown}. Compare it with what the server's administrator \
                     says (ssh-keygen -l over there); where it is the same, add this line to {path:?}: {line}"
                ))
            }
            Verdict::Changed { line } => Err(format!(
                "THE HOST KEY OF {peer} HAS CHANGED: it shows {shown}, line {line} of {path:?} has another. Somebody \
                 may be in between: nothing is sent. Where the server was set up anew, its administrator confirms \
                 this fingerprint; then replace that line"
            )),
            Verdict::Revoked { line } => Err(format!(
                "THE HOST KEY OF {peer} IS REVOKED by line {line} of {path:?}: {shown}. Nothing is sent"
            )),
        }
    }

    fn log_in(&self, session: &ssh2::Session, private: &[keys::PrivateKey]) -> Result<(), String> {
        let user = self.settings.folder.user.as_str();
        let mut tried: Vec<String> = Vec::new();
        for key in private {
            // Never null: OpenSSL's side of libssh2 would take its length.
            let passphrase = self.settings.passphrase.as_ref().map_or("", |secret| secret.expose());
            match session.userauth_pubkey_memory(user, None, &key.text, Some(passphrase)) {
                Ok(()) => return Ok(()),
                Err(error) => tried.push(format!("key {:?}: {}", key.path, self.key_refused(key, &error)?)),
            }
        }
        if let Some(password) = &self.settings.password {
            // Some servers want the password as an answer to a question. Only one way is tried: each failure counts
            // with those who lock users out.
            let methods = session.auth_methods(user).unwrap_or("password");
            let asks =
                !methods.split(',').any(|method| method == "password") && methods.contains("interactive");
            let answered = if asks {
                session.userauth_keyboard_interactive(user, &mut Answer(password.expose()))
            } else {
                session.userauth_password(user, password.expose())
            };
            match answered {
                Ok(()) => return Ok(()),
                Err(error) => tried.push(format!("password: {}", self.refused(&error)?)),
            }
        }
        Err(format!("{} does not let user {user:?} in: {}", self.peer, tried.join("; ")))
    }

    fn key_refused(&self, key: &keys::PrivateKey, error: &ssh2::Error) -> Result<String, String> {
        match error.code() {
            ErrorCode::Session(FILE | KEYFILE_AUTH_FAILED) => {
                Ok(match (key.encrypted, &self.settings.passphrase) {
                    (true, None) => "it needs a passphrase and none is set".to_owned(),
                    (true, Some(_)) => "the passphrase does not open it".to_owned(),
                    (false, _) => "it cannot be read as a private key".to_owned(),
                })
            }
            _ => self.refused(error),
        }
    }

    /// The server's no, in words; an error where it did not answer.
    fn refused(&self, error: &ssh2::Error) -> Result<String, String> {
        match error.code() {
            ErrorCode::Session(AUTHENTICATION_FAILED | PUBLICKEY_UNVERIFIED) => Ok("not accepted".to_owned()),
            _ => Err(format!(
                "could not log in to {} as {:?}: {}",
                self.peer,
                self.settings.folder.user,
                words(error)
            )),
        }
    }
}

/// Shuts a socket down when an opening session is given up, before libssh2 says goodbye on it.
struct Guard(Option<TcpStream>);

impl Guard {
    fn release(mut self) -> TcpStream {
        self.0.take().expect("taken by this call only")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The password, whatever is asked for.
struct Answer<'a>(&'a str);

impl KeyboardInteractivePrompt for Answer<'_> {
    fn prompt<'b>(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'b>]) -> Vec<String> {
        prompts.iter().map(|_| self.0.to_owned()).collect()
    }
}

/// At least a millisecond: zero would mean for ever.
fn milliseconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// libssh2's words as all our messages.
fn words(error: &ssh2::Error) -> String {
    if matches!(error.code(), ErrorCode::Session(TIMEOUT | SOCKET_TIMEOUT)) {
        return "no answer in time".to_owned();
    }
    let text = error.message().trim_end_matches('.');
    let mut chars = text.chars();
    match chars.next() {
        // An abbreviation keeps its capitals.
        Some(first) if !chars.as_str().starts_with(|c: char| c.is_uppercase()) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
