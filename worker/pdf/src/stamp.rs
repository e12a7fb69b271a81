//! One document stamped: by an update where its cross-reference holds, rewritten where it does not, or not at all.

use crate::edit::{self, Edit};
use crate::encryption::{self, Locked};
use crate::file::File;
use crate::limits::Limits;
use crate::pages::{self, NoPages};
use crate::recovery::{self, Recovered};
use crate::writer::{self, Update};
use crate::xref::{self, Fault};
use lopdf::{EncryptionState, Object, ObjectId};
use std::collections::BTreeMap;
use std::fmt;

/// How the lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Look {
    /// Red.
    Visible,
    /// Not drawn, and found by search.
    Invisible,
}

/// Which pages carry the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pages {
    /// The first.
    First,
    /// All of them.
    All,
}

/// How the result came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// The document's bytes as they came, and an update behind them.
    Incremental,
    /// Written anew, because its cross-reference was damaged. A signature in it no longer holds.
    Rewritten,
}

/// A stamped document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The document.
    pub bytes: Vec<u8>,
    /// How it came to be.
    pub how: How,
    /// What an operator may want to know of it: one line each, without any metadata.
    pub notes: Vec<String>,
}

/// A document that was not stamped, and is to be used as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unstamped {
    /// Why.
    pub reason: Reason,
}

/// Why a document was not stamped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no PDF header in its first 1,024 bytes.
    NotPdf,
    /// It does not open without a password.
    Password,
    /// It is encrypted in a way that is not known here, or wrongly.
    Encryption(String),
    /// It has no page.
    NoPage,
    /// Its page tree runs in a circle.
    Circle,
    /// It is damaged beyond what can be recovered.
    Damaged(String),
    /// It is beyond one of the [`Limits`], as a bomb is.
    TooMuch(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotPdf => f.write_str("it is no PDF"),
            Reason::Password => f.write_str("it needs a password"),
            Reason::Encryption(what) => write!(f, "its encryption is not supported: {what}"),
            Reason::NoPage => f.write_str("it has no page"),
            Reason::Circle => f.write_str("its page tree runs in a circle"),
            Reason::Damaged(what) => write!(f, "it is damaged: {what}"),
            Reason::TooMuch(what) => write!(f, "it has too many {what}"),
        }
    }
}

impl fmt::Display for Unstamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl std::error::Error for Unstamped {}

impl From<Reason> for Unstamped {
    fn from(reason: Reason) -> Unstamped {
        Unstamped { reason }
    }
}

/// What stopped an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The cross-reference does not hold: another attempt without it may go further.
    Damaged(String),
    Reason(Reason),
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Stopped {
        match fault {
            Fault::Damaged(what) => Stopped::Damaged(what),
            Fault::TooMuch(what) => Stopped::Reason(Reason::TooMuch(what)),
        }
    }
}

impl From<NoPages> for Stopped {
    fn from(none: NoPages) -> Stopped {
        match none {
            NoPages::None => Stopped::Reason(Reason::NoPage),
            NoPages::Circle => Stopped::Reason(Reason::Circle),
            NoPages::Fault(fault) => fault.into(),
        }
    }
}

impl From<Locked> for Stopped {
    fn from(locked: Locked) -> Stopped {
        Stopped::Reason(match locked {
            Locked::Password => Reason::Password,
            Locked::Unsupported(what) => Reason::Encryption(what),
        })
    }
}

/// Stamps `lines`, names and values in their order, into the document `bytes`.
pub fn stamp<N: AsRef<str>, V: AsRef<str>>(
    bytes: &[u8],
    lines: &[(N, V)],
    look: Look,
    pages: Pages,
    limits: &Limits,
) -> Result<Stamped, Unstamped> {
    let lines: Vec<(&str, &str)> =
        lines.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    if bytes.len() > limits.bytes_max {
        return Err(Reason::TooMuch("bytes").into());
    }
    let header = xref::header(bytes).ok_or(Reason::NotPdf)?;
    let order = Order { bytes, header, lines: &lines, look, pages, limits };
    let stopped = match order.update() {
        Ok(stamped) => return Ok(stamped),
        Err(Stopped::Reason(reason)) => return Err(reason.into()),
        Err(Stopped::Damaged(what)) => what,
    };
    match order.rewrite() {
        Ok(mut stamped) => {
            stamped
                .notes
                .insert(0, format!("its cross-reference is damaged and it was rewritten whole: {stopped}"));
            Ok(stamped)
        }
        // The reasons found on the way tell more than that it is damaged, which is known.
        Err(Stopped::Reason(reason @ (Reason::Password | Reason::Encryption(_) | Reason::TooMuch(_)))) => {
            Err(reason.into())
        }
        Err(Stopped::Reason(Reason::Damaged(what)) | Stopped::Damaged(what)) => {
            Err(Reason::Damaged(format!("{stopped}; {what}")).into())
        }
        Err(Stopped::Reason(reason)) => Err(Reason::Damaged(format!("{stopped}; {reason}")).into()),
    }
}

/// What is to be stamped, and how.
struct Order<'a> {
    bytes: &'a [u8],
    header: usize,
    lines: &'a [(&'a str, &'a str)],
    look: Look,
    pages: Pages,
    limits: &'a Limits,
}

impl Order<'_> {
    fn update(&self) -> Result<Stamped, Stopped> {
        let bytes = &self.bytes[self.header..];
        let mut file = File::open(bytes, self.limits)?;
        file.decrypt()?;
        let mut edit = edit::edit(&mut file, self.lines, self.look, self.pages, self.limits)?;
        let page = edit.first_page.clone();
        if let Some(state) = &file.encryption {
            seal(state, &mut edit.objects, None)?;
        }
        let xref = file.xref().ok_or_else(|| Stopped::Damaged("the cross-reference is missing".into()))?;
        let update = Update {
            length: bytes.len(),
            line_ended: matches!(bytes.last(), Some(b'\n' | b'\r')),
            previous: xref.start,
            kind: xref.kind,
            trailer: &edit.trailer,
            next_number: edit.next_number,
        }
        .write(&edit.objects);
        drop(file);
        let mut result = Vec::with_capacity(self.bytes.len() + update.len());
        result.extend_from_slice(self.bytes);
        result.extend_from_slice(&update);
        self.check(&result[self.header..], &page)?;
        let mut notes = edit.notes;
        if memchr::memmem::find(self.bytes, b"/ByteRange").is_some() {
            notes.push(
                "it is signed: the signature still holds, and readers will say that it was added to".into(),
            );
        }
        Ok(Stamped { bytes: result, how: How::Incremental, notes })
    }

    /// Reads the stamped page back: what cannot be read here must not go out.
    fn check(&self, bytes: &[u8], page: &(ObjectId, Object)) -> Result<(), Stopped> {
        let mut file = File::open(bytes, self.limits)?;
        file.decrypt()?;
        let read = file.get(page.0)?;
        let contents =
            |object: &Object| object.as_dict().ok().and_then(|page| page.get(b"Contents").ok().cloned());
        if contents(&read).is_some() && contents(&read) == contents(&page.1) {
            return Ok(());
        }
        Err(Stopped::Damaged("its update did not read back".into()))
    }

    fn rewrite(&self) -> Result<Stamped, Stopped> {
        let Recovered { objects, trailer, version, encryption, encrypt_id } =
            recovery::recover(&self.bytes[self.header..], self.limits)?;
        let mut file = File::loaded(objects, trailer, self.limits);
        let found = pages::pages(&mut file, self.limits, false)?.count;
        let Edit { objects: edited, trailer, notes, .. } =
            edit::edit(&mut file, self.lines, self.look, self.pages, self.limits)?;
        let mut objects = file.into_objects();
        objects.extend(edited);
        if let Some(state) = &encryption {
            seal(state, &mut objects, encrypt_id)?;
        }
        let result = writer::whole(&version, &objects, &trailer);
        drop(objects);
        let mut file = File::open(&result, self.limits)?;
        file.decrypt()?;
        if pages::pages(&mut file, self.limits, false)?.count != found {
            return Err(Stopped::Damaged("what was recovered did not read back".into()));
        }
        drop(file);
        let mut notes = notes;
        if memchr::memmem::find(self.bytes, b"/ByteRange").is_some() {
            notes.push("it was signed: the signature no longer holds".into());
        }
        Ok(Stamped { bytes: result, how: How::Rewritten, notes })
    }
}

fn seal(
    state: &EncryptionState,
    objects: &mut BTreeMap<ObjectId, Object>,
    encrypt_id: Option<ObjectId>,
) -> Result<(), Stopped> {
    for (&id, object) in objects.iter_mut().filter(|(id, _)| Some(**id) != encrypt_id) {
        encryption::seal(state, id, object)
            .map_err(|error| Stopped::Reason(Reason::Encryption(error.to_string())))?;
    }
    Ok(())
}
