//! What a channel's steps are given: archive, attachments, drop folders, mappings, database, tasks, resend.

use crate::pattern::Pattern;
use crate::secret::SecretName;
use crate::time_format::TimeFormat;
use hl7::path::FieldPath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// `local_archive`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalArchive {
    /// Folder below the roots, from the time of receipt.
    pub format: TimeFormat,
    /// Root of archived messages.
    pub path: Option<PathBuf>,
    /// Root of archived attachments.
    pub attachment: Option<PathBuf>,
    /// Older day folders are pruned; `None` keeps them.
    pub retention_days: Option<u32>,
}

/// `attachment_format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentFormat {
    /// A PDF.
    #[default]
    Pdf,
    /// Text of TX, FT or ST values.
    Text,
}

/// `attachment_output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentOutput {
    /// As it came.
    #[default]
    Same,
    /// Text laid out as a PDF.
    Pdf,
}

/// How metadata is stamped into an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Red text, or invisible text that a search finds.
    pub visible: bool,
    /// Every page, or only the first.
    pub all_pages: bool,
    /// A failed stamp fails the step; otherwise the attachment is delivered as it came.
    pub must_succeed: bool,
}

/// One entry of `drop_folders`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropFolder {
    /// Its key, or its position from 1 where the file has a list; names the step.
    pub name: String,
    /// Where it is.
    pub target: DropTarget,
}

/// Where a drop folder is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DropTarget {
    /// A folder of this machine.
    Local {
        /// Its path.
        path: PathBuf,
    },
    /// A folder reached by SFTP.
    Remote(RemoteFolder),
}

/// A folder reached by SFTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteFolder {
    /// Its path over there.
    pub path: String,
    /// Host name or address.
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Private key; `None` tries the usual names below `~/.ssh`.
    pub key_file: Option<PathBuf>,
    /// Passphrase of the key.
    pub passphrase: Option<SecretName>,
    /// Password instead of a key.
    pub password: Option<SecretName>,
    /// Known host keys; `None` is `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// Bound of every wait.
    pub timeout: Duration,
}

/// One entry of `mapping`, with what `mapping_ignore` and `custom_regex` say of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// The variable's name.
    pub name: String,
    /// Where its value is; several are joined.
    pub paths: Vec<FieldPath>,
    /// The message goes on where nothing is found.
    pub optional: bool,
    /// What is replaced in the value.
    pub replace: Option<Replacement>,
}

/// What a `custom_regex` does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replacement {
    /// Every match of it…
    pub pattern: Pattern,
    /// …becomes this; empty by default. Taken literally.
    pub with: String,
}

/// `db_insert`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DbInsert {
    /// Which engine.
    pub driver: Driver,
    /// Host name or address; unused with SQLite.
    pub server: String,
    /// TCP port; unused with SQLite.
    pub port: u16,
    /// User.
    pub username: String,
    /// Password.
    pub password: Option<SecretName>,
    /// Database name; SQLite: file path.
    pub database: String,
    /// Table inserted into; may be schema-qualified with one dot.
    pub table: String,
    /// Table of the look-ups.
    pub mapping_table: Option<String>,
    /// Create the table where it is absent.
    pub create_table: bool,
    /// Log the statements.
    pub debug_table: bool,
    /// Column → pairs of what is replaced by what.
    pub replace_list: BTreeMap<String, Vec<(String, String)>>,
    /// Bound of every wait.
    pub timeout: Duration,
    /// Whether the connection is encrypted.
    pub tls: DbTls,
    /// Check the server's certificate.
    pub certificate: bool,
    /// CA bundle instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Column that holds the message id, so that a redelivered message inserts nothing twice.
    pub message_key: Option<String>,
}

/// Database engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// MariaDB or MySQL.
    MariaDb,
    /// PostgreSQL.
    PostgreSql,
    /// Microsoft SQL Server.
    SqlServer,
    /// SQLite, embedded.
    Sqlite,
}

/// `db_insert.tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DbTls {
    /// Without TLS no connection.
    Require,
    /// TLS where the server has it.
    Prefer,
    /// Plain.
    Disable,
}

/// One entry of `db_mapping`: `SELECT return FROM mapping_table WHERE column = :match`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lookup {
    /// The variable's name.
    pub name: String,
    /// The column searched.
    pub column: String,
    /// The mapping whose value is searched for.
    pub matches: String,
    /// The column returned.
    pub returns: String,
    /// Null where no row is found, instead of a failed message.
    pub optional: bool,
}

/// One entry of `db_metadata`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DbColumn {
    /// The variable inserted.
    pub variable: String,
    /// The column's name.
    pub column: String,
    /// The column's type.
    pub kind: ColumnKind,
    /// Where the value comes from.
    pub source: ColumnSource,
    /// A null is allowed.
    pub nullable: bool,
}

/// Column types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnKind {
    /// A whole number.
    Integer,
    /// Text of at most that many characters.
    String(u32),
    /// Text of any length.
    Text,
    /// Date and time.
    DateTime,
}

/// Where a column's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnSource {
    /// The variable.
    Variable,
    /// The database counts it up.
    AutoIncrement,
    /// A random number.
    Random,
    /// The time of processing.
    Now,
}

/// `mobile`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mobile {
    /// Variables looked at, in order.
    pub fields: Vec<String>,
    /// What a number must match.
    pub pattern: Pattern,
}

/// `resend`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resend {
    /// Host name or address.
    pub server: String,
    /// TCP port.
    pub port: u16,
    /// Bound of every wait.
    pub timeout: Duration,
    /// After every other step has ended, instead of first.
    pub after_processing: bool,
    /// Which messages are forwarded; `None` forwards all.
    pub filter: Option<ResendFilter>,
    /// TLS to the peer.
    pub tls: Option<ClientTls>,
    /// Acknowledgment codes that count as done.
    pub accept_codes: BTreeSet<String>,
}

/// TLS to a peer that we connect to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientTls {
    /// CA bundle instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Name expected in the peer's certificate instead of the server's.
    pub verify_name: Option<String>,
}

/// `resend.filter`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResendFilter {
    /// Solr core searched.
    pub source_core: String,
    /// Where the searched value is in the message.
    pub match_source: FieldPath,
    /// Solr field that must hold it.
    pub match_field: String,
    /// Solr field looked at in what was found…
    pub search_field: String,
    /// …and the values that forward the message.
    pub match_values: Vec<String>,
}
