//! Remote drop folders: files put whole into a folder of an SFTP server, never a part of one under its final name, never
//! in the place of another.
//!
//! A file is written under a temporary name in the target folder, flushed there where the server knows how
//! (`fsync@openssh.com`), looked at once more, and renamed; SFTP's rename refuses a name that is taken. The same bytes
//! under the name are this file, put there by an attempt whose answer was lost. What cannot be had: SFTP knows no flush
//! of a folder, so that a server that loses power may forget a name it has just given.
//!
//! Whatever the server, its disk, its keys or our login are at fault for may pass: an operator mends it there, and the
//! message waits. No fault here ever fails a message.

mod keys;
mod known_hosts;
mod session;
mod upload;

use crate::connect;
use crate::fault::Fault;
use config::RemoteFolder;
use journal::MessageId;
use link::SecretValue;
use session::{Refusal, RefusalKind, Session, Trouble};
use std::collections::BTreeMap;
use std::fmt;

pub use keys::own_files;
pub use upload::PutOutcome;

/// Temporaries remembered to be cleared away; a server that is down for a day must not make us remember a day's.
const LEFT_MAX: usize = 32;

/// Puts files into one remote folder. One a thread; it keeps its session.
pub struct SftpClient {
    settings: Settings,
    session: Option<Session>,
    /// Temporaries that renames without an answer may have left behind.
    left: Vec<String>,
}

/// What a client was built from.
struct Settings {
    folder: RemoteFolder,
    passphrase: Option<SecretValue>,
    password: Option<SecretValue>,
}

impl Settings {
    /// The server as messages name it.
    fn peer(&self) -> String {
        format!("sftp server {:?}", connect::address(&self.folder.server, self.folder.port))
    }
}

impl fmt::Debug for SftpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpClient").field("folder", &self.settings.folder).finish_non_exhaustive()
    }
}

impl SftpClient {
    /// Connects when it is first used.
    pub fn new(folder: &RemoteFolder, secrets: &BTreeMap<String, SecretValue>) -> SftpClient {
        let value = |name: &Option<config::SecretName>| secrets.get(name.as_ref()?.as_str()).cloned();
        let settings = Settings {
            passphrase: value(&folder.passphrase),
            password: value(&folder.password),
            folder: folder.clone(),
        };
        SftpClient { settings, session: None, left: Vec::new() }
    }

    /// Puts a file into the folder, or into `below` of it. It is there and flushed when this returns.
    ///
    /// # Errors
    /// Always [`Fault::Again`]; nothing stands under the final name that is not whole.
    pub fn put(
        &mut self,
        below: &str,
        stem: &str,
        suffix: &str,
        id: MessageId,
        bytes: &[u8],
    ) -> Result<PutOutcome, Fault> {
        let file =
            upload::NewFile { root: &self.settings.folder.path.clone(), below, stem, suffix, id, bytes };
        let kept = self.session.is_some();
        let mut begun = false;
        match self.attempt(|session, left| upload::put(session, &file, left, &mut begun)) {
            // A session that was kept while nothing was to be done may have died unnoticed: that says nothing of the
            // server as it is now.
            Err(Lost::Connection(_)) if kept && !begun => {
                self.attempt(|session, left| upload::put(session, &file, left, &mut begun))
            }
            other => other,
        }
        .map_err(|lost| self.fault(lost, file.folder(), below))
    }

    /// Logs in, writes an empty file into the folder and removes it; says what it found.
    ///
    /// # Errors
    /// What an upload would meet.
    pub fn probe(&mut self) -> Result<String, Fault> {
        let root = self.settings.folder.path.clone();
        let shown = self
            .attempt(|session, _| upload::probe(session, &root).map(|()| session.host_key.clone()))
            .map_err(|lost| self.fault(lost, root.clone(), ""))?;
        let user = &self.settings.folder.user;
        Ok(format!(
            "{} takes files from user {user:?} in {root:?}; its host key is {shown}",
            self.settings.peer()
        ))
    }

    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Session, &mut Vec<String>) -> Result<T, Trouble>,
    ) -> Result<T, Lost> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&self.settings).map_err(Lost::Never)?,
        };
        self.left.truncate(LEFT_MAX);
        match work(&mut session, &mut self.left) {
            Err(Trouble::Lost(reason)) => Err(Lost::Connection(reason)),
            Err(Trouble::Refused(refusal)) => {
                self.session = Some(session);
                Err(Lost::Refused(refusal))
            }
            Ok(done) => {
                self.session = Some(session);
                Ok(done)
            }
        }
    }

    fn fault(&self, lost: Lost, folder: String, below: &str) -> Fault {
        let peer = self.settings.peer();
        match lost {
            Lost::Never(fault) => fault,
            Lost::Connection(reason) => Fault::down(format!("lost the connection to {peer}: {reason}")),
            Lost::Refused(Refusal { kind, words }) => {
                let reason = format!("could not put a file into {folder:?} on {peer}: {words}");
                // As with local folders: one name, or the folder of one day, says nothing of the others.
                match kind {
                    RefusalKind::Name => Fault::own(reason),
                    RefusalKind::Absent if !below.is_empty() => Fault::own(reason),
                    RefusalKind::Absent | RefusalKind::Unsupported | RefusalKind::Other => {
                        Fault::down(reason)
                    }
                }
            }
        }
    }
}

/// How an attempt ended that did not succeed.
enum Lost {
    /// There was no session to be had.
    Never(Fault),
    /// The session was lost on the way.
    Connection(String),
    /// The server said no.
    Refused(Refusal),
}

#[cfg(test)]
mod tests;
