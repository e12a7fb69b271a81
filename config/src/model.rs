//! The configuration as the rest of the program sees it: every default filled in, every path, pattern, format and
//! field path already parsed. Nothing here is a string that still has to be checked.
//!
//! The values travel from the master to a worker over the link, so they serialise; secrets are not among them (only
//! the names they are looked up by, see [`crate::secret`]).

mod receiving;
mod steps;

pub use receiving::*;
pub use steps::*;

use crate::secret::SecretName;
use hl7::charset::Encoding;
use hl7::path::FieldPath;
use serde::{Deserialize, Serialize};
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
