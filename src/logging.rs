//! How log lines look, for the master, its workers and the commands. Lines go to standard error, each in one write.
//!
//! Text is `LEVEL channel: message`. Under systemd (standard error is the journal's stream) the line begins with a
//! priority `<N>`; elsewhere with the time, since nobody else adds one. `log_format: json` writes one object a line.
//! The fields `channel`, `message_id`, `control_id` and `step` come as key-values of the `log` macros:
//! `log::info!(channel = name, message_id:% = id; "…")`.
//!
//! Peers choose parts of what is logged, so C0 and C1 control characters and DEL are escaped in every line: a message
//! cannot forge a second line nor move a terminal's cursor.

use env_logger::fmt::Formatter;
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::linux::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Our own modules; `debug_mode` raises their level and leaves that of libraries alone.
const OWN_MODULES: [&str; 9] =
    ["hl7server", "master", "worker", "config", "db", "journal", "link", "hl7", "pdf"];

/// `log_format: json`. Kept apart from the logger, because the master only learns it from the file that it loads, and
/// may learn another one at a reload.
static JSON: AtomicBool = AtomicBool::new(false);

/// What every line of this process is about, where it serves a single channel.
static CHANNEL: OnceLock<String> = OnceLock::new();

/// Starts logging with the level of `RUST_LOG`, else `info`; `adopt` then follows the configuration.
/// Returns whether standard error is the system journal's stream, which workers are told.
pub(crate) fn init() -> bool {
    let journald = to_journal();
    start(std::env::var("RUST_LOG").ok().as_deref(), journald);
    journald
}

/// Starts logging in a worker of `channel`, or in one that does not know its channel yet (""). `filter` has the syntax of
/// `RUST_LOG`; the master chose it, since a worker's environment is empty.
pub(crate) fn init_worker(channel: &str, filter: &str, json: bool, journald: bool) {
    if !channel.is_empty() {
        let _ = CHANNEL.set(channel.to_owned());
    }
    JSON.store(json, Ordering::Relaxed);
    match filter.parse() {
        // A bare level is about our own modules: `debug` would drown them in what libraries say.
        Ok(level) => {
            start(None, journald);
            log::set_max_level(level);
        }
        Err(_) => start(Some(filter), journald),
    }
}

/// Follows `log_format` and `debug_mode` of a configuration that has just come into force. `RUST_LOG` wins over
/// `debug_mode`.
pub(crate) fn adopt(json: bool, debug_mode: bool) {
    JSON.store(json, Ordering::Relaxed);
    if std::env::var_os("RUST_LOG").is_none() {
        log::set_max_level(if debug_mode { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

/// Without a filter: our own modules up to `trace`, libraries up to `warn`, and of that what the greatest level lets
/// through, which is `info` until somebody sets another.
fn start(filter: Option<&str>, journald: bool) {
    let mut builder = env_logger::Builder::new();
    match filter {
        Some(filter) => drop(builder.parse_filters(filter)),
        None => {
            builder.filter_level(LevelFilter::Warn);
            for module in OWN_MODULES {
                builder.filter_module(module, LevelFilter::Trace);
            }
        }
    }
    builder.format(move |out, record| {
        if JSON.load(Ordering::Relaxed) { write_json(out, record) } else { write_text(out, record, journald) }
    });
    if builder.try_init().is_ok() && filter.is_none() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Standard error is the stream that systemd named in `JOURNAL_STREAM` (`DEVICE:INODE`); a service that redirects it
/// elsewhere keeps the variable.
fn to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}

/// The syslog priority that journald reads between angle brackets.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn write_text(out: &mut Formatter, record: &Record, journald: bool) -> io::Result<()> {
    let time = (!journald).then(|| out.timestamp_millis());
    out.write_all(text_line(record, time.as_ref().map(|t| t as &dyn std::fmt::Display)).as_bytes())
}

/// A line of text; without a time it gets journald's priority.
fn text_line(record: &Record, time: Option<&dyn std::fmt::Display>) -> String {
    // Of the fields a text shows the channel alone: to read the others costs as much as the line.
    let own = record.key_values().get(Key::from_str("channel")).map(|channel| channel.to_string());
    let channel = own.as_deref().or(CHANNEL.get().map(String::as_str));
    let message = record.args().to_string();
    let message = without_channel(&message, channel);
    let mut line = String::with_capacity(message.len() + 64);
    let level = record.level();
    let _ = match time {
        Some(time) => write!(line, "{time} {level:<5} "),
        None => write!(line, "<{}>{level} ", priority(level)),
    };
    if let Some(channel) = channel {
        let _ = write!(line, "{}: ", escape_controls(channel));
    }
    line.push_str(&escape_controls(message));
    line.push('\n');
    line
}

fn write_json(out: &mut Formatter, record: &Record) -> io::Result<()> {
    let time = out.timestamp_millis().to_string();
    out.write_all(json_line(record, &time).as_bytes())
}

fn json_line(record: &Record, time: &str) -> String {
    let fields = Fields::of(record);
    let message = record.args().to_string();
    let message = without_channel(&message, fields.channel());
    let mut line = String::with_capacity(message.len() + 128);
    line.push_str("{\"ts\":");
    push_json(&mut line, time);
    line.push_str(",\"level\":");
    push_json(&mut line, record.level().as_str().to_ascii_lowercase().as_str());
    let named = [
        ("channel", fields.channel()),
        ("message_id", fields.message_id.as_deref()),
        ("control_id", fields.control_id.as_deref()),
        ("step", fields.step.as_deref()),
        ("msg", Some(message)),
    ];
    for (name, value) in named {
        let Some(value) = value else { continue };
        let _ = write!(line, ",\"{name}\":");
        push_json(&mut line, value);
    }
    line.push_str("}\n");
    line
}

/// A message that already names its channel is not given it twice, nor in JSON's `msg`.
fn without_channel<'a>(message: &'a str, channel: Option<&str>) -> &'a str {
    channel
        .and_then(|channel| message.strip_prefix(channel))
        .and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(message)
}

/// A JSON string. serde_json escapes C0 only; C1 and DEL are escaped here.
fn push_json(line: &mut String, value: &str) {
    let quoted = serde_json::to_string(value).unwrap_or_default();
    for letter in quoted.chars() {
        match letter {
            '\u{7f}'..='\u{9f}' => drop(write!(line, "\\u{:04x}", u32::from(letter))),
            _ => line.push(letter),
        }
    }
}

/// C0, DEL and C1 as `\n`, `\r`, `\t` or `\x{..}`, also for what the commands print of a peer's making.
pub(crate) fn escape_controls(text: &str) -> Cow<'_, str> {
    // C1 begins with C2 in UTF-8, as other letters do: of those that may be controls each is looked at.
    let may_be_one = |byte: u8| byte.is_ascii_control() || byte == 0xC2;
    if !text.bytes().any(may_be_one) || !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            _ if letter.is_control() => drop(write!(escaped, "\\x{{{:02x}}}", u32::from(letter))),
            _ => escaped.push(letter),
        }
    }
    Cow::Owned(escaped)
}

/// The key-values of a record that have a place of their own.
#[derive(Default)]
struct Fields {
    channel: Option<String>,
    message_id: Option<String>,
    control_id: Option<String>,
    step: Option<String>,
}

impl Fields {
    fn of(record: &Record) -> Fields {
        let mut fields = Fields::default();
        let _ = record.key_values().visit(&mut fields);
        fields
    }

    fn channel(&self) -> Option<&str> {
        self.channel.as_deref().or(CHANNEL.get().map(String::as_str))
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let place = match key.as_str() {
            "channel" => &mut self.channel,
            "message_id" => &mut self.message_id,
            "control_id" => &mut self.control_id,
            "step" => &mut self.step,
            _ => return Ok(()),
        };
        *place = Some(value.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str, channel: Option<&str>, json: bool) -> String {
        let pairs: Vec<(&str, &str)> =
            channel.map(|c| vec![("channel", c), ("step", "archive")]).unwrap_or_default();
        let arguments = format_args!("{message}").to_string();
        let mut builder = Record::builder();
        builder.level(Level::Warn).key_values(&pairs);
        if json {
            json_line(&builder.args(format_args!("{arguments}")).build(), "2025-05-12T10:00:00.000Z")
        } else {
            text_line(&builder.args(format_args!("{arguments}")).build(), None)
        }
    }

    #[test]
    fn a_line_for_the_journal_has_priority_level_and_channel() {
        assert_eq!(line("disk is full", Some("adt_in"), false), "<4>WARN adt_in: disk is full\n");
        assert_eq!(line("started", None, false), "<4>WARN started\n");
    }

    #[test]
    fn a_message_that_names_its_channel_is_not_given_it_twice() {
        assert_eq!(line("adt_in: disk is full", Some("adt_in"), false), "<4>WARN adt_in: disk is full\n");
    }

    #[test]
    fn a_peer_cannot_forge_a_second_line() {
        let forged = line("id \"A\nERROR all is lost\u{1b}[2J\u{9b}1m\u{7f}\"", None, false);
        assert_eq!(forged.matches('\n').count(), 1);
        assert_eq!(forged, "<4>WARN id \"A\\nERROR all is lost\\x{1b}[2J\\x{9b}1m\\x{7f}\"\n");
    }

    #[test]
    fn json_is_one_object_with_its_fields_in_place() {
        let text = line("adt_in: umlaut ä, quote \", \u{9b}", Some("adt_in"), true);
        assert!(!text.contains('\u{9b}'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["channel"], "adt_in");
        assert_eq!(value["step"], "archive");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["msg"], "umlaut ä, quote \", \u{9b}");
    }
}
