//! The configuration as the rest of the program sees it: every default filled in, every path, pattern, format and
//! field path already parsed. Nothing here is a string that still has to be checked.
//!
//! The values travel from the master to a worker over the link, so they serialise; secrets are not among them (only
//! the names they are looked up by, see [`crate::secret`]).

use crate::pattern::Pattern;
use crate::secret::SecretName;
use crate::time_format::TimeFormat;
use hl7::charset::Encoding;
use hl7::path::FieldPath;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A whole, checked configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What holds for the whole server.
    pub service: Service,
    /// The channels in the order of the file, disabled ones included.
    pub channels: Vec<Channel>,
}

/// The keys at the root of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Log every field of every message.
    pub debug_values: bool,
    /// Log level `debug` for our own modules.
    pub debug_mode: bool,
    /// The user's own version of the file, shown by `check` and `status`.
    pub config_version: Option<String>,
    /// Messages processed at the same time over all channels.
    pub max_tasks: u16,
    /// Index messages into Solr.
    pub store_solr: bool,
    /// Send credential tasks to dfapi.
    pub create_credentials: bool,
    /// The one active Solr server.
    pub solr: Option<SolrServer>,
    /// The credentials service; its defaults where `create_credentials` is on and the key is absent.
    pub dfapi: Option<Dfapi>,
    /// When the master is root, its workers run as this user.
    pub user: Option<String>,
    /// When the master is root, its workers run as this group.
    pub group: Option<String>,
    /// How long a drain may take.
    pub stop_timeout: Duration,
    /// What raises an alert and whom it tells.
    pub alerts: Vec<Alert>,
    /// Journals and failed messages, one folder a channel.
    pub state_path: PathBuf,
    /// Where the control socket is.
    pub runtime_path: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The Solr server that messages are indexed in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SolrServer {
    /// Host name or address.
    pub name: String,
    /// TCP port.
    pub port: u16,
    /// HTTPS, or plain HTTP.
    pub https: bool,
    /// User of basic authentication.
    pub user: String,
    /// Where the password is looked up.
    pub password: Password,
    /// Check the server's certificate.
    pub certificate: bool,
    /// CA bundle instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Cores that must exist; created where absent.
    pub active_cores: Vec<String>,
    /// Bound of every wait.
    pub timeout: Duration,
}

/// A password that the file gives as the name of a secret, or in plain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Password {
    /// Looked up when the server starts.
    Named(SecretName),
    /// Stands in the file; `Debug` hides it.
    Plain(crate::secret::PlainSecret),
}

/// The HTTP service that turns a patient into login credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dfapi {
    /// Host name or address.
    pub name: String,
    /// TCP port.
    pub port: u16,
    /// HTTPS, or plain HTTP.
    pub https: bool,
    /// Path before the calls, without a trailing slash.
    pub path: String,
    /// Bearer token.
    pub token: Option<SecretName>,
    /// Check the server's certificate.
    pub certificate: bool,
    /// CA bundle instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Bound of every wait.
    pub timeout: Duration,
}

/// One entry of `alerts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its name in the log and in what it sends.
    pub name: String,
    /// The condition.
    pub when: AlertWhen,
    /// The condition's limit, in the condition's own unit (minutes, messages, bytes, days).
    pub limit: Option<u64>,
    /// Hours of the day it holds in, first and last minute of the day.
    pub hours: Option<(u16, u16)>,
    /// Channels it looks at; empty for all.
    pub channels: Vec<String>,
    /// Whom it tells.
    pub action: AlertAction,
}

/// What raises an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlertWhen {
    /// No message for a while.
    Silent,
    /// A message waits too long.
    Waiting,
    /// Messages failed.
    Failed,
    /// Messages were refused.
    Refused,
    /// A channel is down.
    Down,
    /// Little room on the disk.
    Disk,
    /// A certificate ends soon.
    Certificate,
}

/// Whom an alert tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AlertAction {
    /// A command that gets JSON on its standard input.
    Command(Vec<String>),
    /// A URL that gets JSON by POST.
    Webhook(String),
}

/// One configured listener with its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Unique; names folders and the process title.
    pub name: String,
    /// Unique TCP port.
    pub port: u16,
    /// Address listened on; `::` is dual-stack.
    pub listen: IpAddr,
    /// A disabled channel is checked but not run.
    pub enabled: bool,
    /// Largest message accepted, in bytes.
    pub stream_limit_bytes: usize,
    /// Encoding of the messages.
    pub encoding: Encoding,
    /// What becomes of a message that the encoding cannot decode.
    pub on_undecodable: OnUndecodable,
    /// Log each message, one segment a line.
    pub debug_message: bool,
    /// Log the metadata after mapping.
    pub debug_metadata: bool,
    /// Log every field of every message (`debug_values` of the service).
    pub debug_values: bool,
    /// When AA is sent.
    pub ack: AckMode,
    /// How long an answer of `ack: processed` may wait.
    pub answer_timeout: Duration,
    /// What becomes of a message that came before.
    pub duplicates: Duplicates,
    /// Workflow of each message type, the table of the reference with `message_types` laid over it.
    pub workflows: WorkflowTable,
    /// Accepted MSH-12; `None` accepts any.
    pub accept_versions: Option<Vec<String>>,
    /// Accepted MSH-11; `None` accepts any.
    pub accept_processing_ids: Option<Vec<String>>,
    /// What bounds connections, buffers and the backlog.
    pub bounds: Bounds,
    /// Networks that may connect; empty for any.
    pub allow: Vec<Network>,
    /// MLLP over TLS.
    pub tls: Option<Tls>,
    /// Messages of this channel processed at the same time.
    pub tasks: u16,
    /// How a step is tried again.
    pub retry: Retry,
    /// Patient id in file names.
    pub patient_id_field: Option<FieldPath>,
    /// Accession number in file names.
    pub accession_number_field: Option<FieldPath>,
    /// Archive a message before anything else, without metadata in its name.
    pub archive_first: bool,
    /// Where messages and attachments are archived; `None` where absent or disabled.
    pub local_archive: Option<LocalArchive>,
    /// Where the attachment is; `None` searches the message for it.
    pub attachment_field: Option<FieldPath>,
    /// What the attachment is.
    pub attachment_format: AttachmentFormat,
    /// What a text attachment is written as.
    pub attachment_output: AttachmentOutput,
    /// How metadata is stamped into the attachment; `None` leaves it as it came.
    pub stamp: Option<Stamp>,
    /// Enabled drop folders in the order of the file.
    pub drop_folders: Vec<DropFolder>,
    /// What is read from a message, in the order of the file.
    pub mapping: Vec<Mapping>,
    /// What stands between the values of a mapping with several paths.
    pub mapping_separator: String,
    /// The database insert and what belongs to it.
    pub db_insert: Option<DbInsert>,
    /// Look-ups in `mapping_table`, in the order of the file.
    pub db_mapping: Vec<Lookup>,
    /// Columns of the insert, in the order of the file.
    pub db_metadata: Vec<DbColumn>,
    /// Patient data of a credential task: field → variable.
    pub credentials_metadata: Vec<(String, String)>,
    /// Appointment data of a credential task: field → variable.
    pub book_metadata: Vec<(String, String)>,
    /// Mobile number of a credential task.
    pub mobile: Option<Mobile>,
    /// Forwarding to another HL7 server; `None` where absent or disabled.
    pub resend: Option<Resend>,
    /// Segments indexed in Solr.
    pub solr_segments: Vec<String>,
    /// Pruning of failed messages, in days; `None` keeps them.
    pub retention_failed_days: Option<u32>,
    /// Pruning of quarantined bytes, in days; `None` keeps them.
    pub retention_quarantine_days: Option<u32>,
}

/// What a worker is given: its own channel and those global settings that it uses. Two equal values mean that a reload
/// leaves the worker alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerSettings {
    /// The channel.
    pub channel: Channel,
    /// Root of the state folders; the channel's own is below it.
    pub state_path: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Log level `debug`.
    pub debug_mode: bool,
    /// Where to index, when this channel's plan does.
    pub solr: Option<SolrServer>,
    /// Index messages (`store_solr`); `solr` may be there for the resend filter alone.
    pub store_solr: bool,
    /// Where credentials are made, when this channel's plan does.
    pub dfapi: Option<Dfapi>,
}

/// `on_undecodable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUndecodable {
    /// Accepted; undecodable bytes read as U+FFFD.
    #[default]
    Accept,
    /// Answered AE 102.
    Refuse,
}

/// `ack`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AckMode {
    /// AA once the message is flushed.
    #[default]
    Received,
    /// AA once every step is done.
    Processed,
}

/// `duplicates`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Duplicates {
    /// Acknowledged again, not processed again.
    #[default]
    Suppress,
    /// Processed again.
    Process,
}

/// What is done with a message, besides the common steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Workflow {
    /// A credential task for the patient.
    Credentials,
    /// Attachments are taken out and delivered.
    Document,
    /// Two patients become one.
    PatientMerge,
    /// Only the common steps.
    Store,
}

/// Message type (`ADT^A01`) → workflow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkflowTable {
    /// By `TYPE^EVENT`, or `TYPE` alone for every event of a type.
    pub by_type: BTreeMap<String, Workflow>,
    /// `"*"`: every other type.
    pub any: Option<Workflow>,
}

/// What bounds connections, buffers and the backlog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Connections at the same time.
    pub connections_max: usize,
    /// Connections of one address at the same time.
    pub connections_per_address_max: usize,
    /// No byte between frames for that long closes; zero never does.
    pub idle_timeout: Duration,
    /// No byte inside a frame for that long closes.
    pub message_timeout: Duration,
    /// All receive buffers of the worker together, in bytes.
    pub buffer_limit_bytes: usize,
    /// Accepted messages not yet delivered.
    pub backlog_max: usize,
}

/// An address and its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The network's address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
}

/// MLLP over TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// PEM chain.
    pub certificate: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// CA of client certificates, which are then mandatory.
    pub client_ca: Option<PathBuf>,
    /// Accepted CN or SAN of client certificates; empty for any.
    pub client_names: Vec<String>,
}

/// How a step that may pass later is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// First wait.
    pub first: Duration,
    /// Longest wait; waits double up to it.
    pub longest: Duration,
    /// After that long the step has failed.
    pub give_up: Duration,
}

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
