//! Why a database call did not succeed, sorted by what may help.

use std::fmt;

/// What a call of a database ends in when it does not succeed. The reason is for a log: it names tables, columns and
/// codes, and no value.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It may pass later. The connection is dropped, whatever state it was in.
    Again {
        /// What happened.
        reason: String,
        /// No statement will do better now: refused, timed out, unreachable, too many connections, read-only.
        target_down: bool,
        /// When the other side asked to be tried again, microseconds of Unix time.
        wanted_us: Option<i64>,
    },
    /// A unique value is there already. Fails the message, unless what is there is the message's own row.
    Duplicate(String),
    /// It stays: data, constraint, missing table or column, permission. The connection goes on.
    Failed(String),
}

impl Fault {
    /// The database cannot be worked with now.
    pub fn down(reason: impl Into<String>) -> Fault {
        Fault::Again { reason: reason.into(), target_down: true, wanted_us: None }
    }

    /// This statement did not get through; another may (deadlock, lock wait).
    pub fn again(reason: impl Into<String>) -> Fault {
        Fault::Again { reason: reason.into(), target_down: false, wanted_us: None }
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Fault::Again { reason, .. } | Fault::Duplicate(reason) | Fault::Failed(reason) => reason,
        }
    }

    /// Whether it may pass later.
    pub fn is_again(&self) -> bool {
        matches!(self, Fault::Again { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// What an engine's code says of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// [`Fault::down`].
    Down,
    /// [`Fault::again`].
    Again,
    /// [`Fault::Duplicate`].
    Duplicate,
    /// [`Fault::Failed`].
    Failed,
}

impl Class {
    /// The fault of this class.
    pub(crate) fn fault(self, reason: String) -> Fault {
        match self {
            Class::Down => Fault::down(reason),
            Class::Again => Fault::again(reason),
            Class::Duplicate => Fault::Duplicate(reason),
            Class::Failed => Fault::Failed(reason),
        }
    }
}

/// An I/O error as a reader wants it: `connection refused`, without `(os error 111)`.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
