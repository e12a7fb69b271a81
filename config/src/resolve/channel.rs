//! A channel: how it receives, and its parts put together.

use super::{Context, Variables, check, database, files, metadata, resend};
use crate::model::{
    AckMode, Bounds, Channel, Duplicates, Network, OnUndecodable, Retry, Service, Tls, Workflow,
    WorkflowTable,
};
use crate::problem::{Spot, quoted};
use crate::raw;
use crate::raw::read::{At, Key};
use hl7::charset::Encoding;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// What `stream_limit` is where nothing is said, in bytes.
const STREAM_LIMIT_BYTES: u64 = 10 << 20;
/// What it is at least: the files taken over have 512 where a real ADT message needs several KiB.
const STREAM_LIMIT_BYTES_MIN: u64 = 64 << 10;
/// What it is at most: lengths are 32 bits in the journal.
const STREAM_LIMIT_BYTES_MAX: u64 = 1 << 30;
/// What `buffer_limit` is where nothing is said, in bytes.
const BUFFER_LIMIT_BYTES: u64 = 256 << 20;
/// First port of the kernel's own range for outgoing connections.
const EPHEMERAL_FIRST: i64 = 32_768;

pub(super) fn resolve(raw: &raw::Channel, service: &Service, context: &mut Context<'_>) -> Channel {
    let enabled = raw.enabled.is_not_false();
    let variables = Variables::of(raw);
    let mapping = metadata::mapping(raw, &variables, context);
    let workflows = workflows(raw, context);
    let db_metadata = database::columns(raw, &variables, context);
    let db_insert = database::insert(raw, &db_metadata, enabled, context);
    let archive_first = raw.archive_first.is_true();
    let patient_id_field = context.optional_field_path(&raw.patient_id_field);
    let accession_number_field = context.optional_field_path(&raw.accession_number_field);
    let bounds = bounds(raw, context);
    let stream_limit_bytes = stream_limit(raw, bounds.buffer_limit_bytes, context);
    files::note_names(raw, context);
    Channel {
        name: name(raw, context),
        port: port(raw, context),
        listen: listen(raw, context),
        enabled,
        stream_limit_bytes,
        encoding: encoding(raw, context),
        on_undecodable: context.choice(
            &raw.on_undecodable,
            &[("accept", OnUndecodable::Accept), ("refuse", OnUndecodable::Refuse)],
            OnUndecodable::default(),
        ),
        debug_message: raw.debug_message.is_true(),
        debug_metadata: raw.debug_metadata.is_true(),
        debug_values: service.debug_values,
        ack: context.choice(
            &raw.ack,
            &[("received", AckMode::Received), ("processed", AckMode::Processed)],
            AckMode::default(),
        ),
        answer_timeout: context.wait(&raw.answer_timeout, Duration::from_secs(20)),
        duplicates: context.choice(
            &raw.duplicates,
            &[("suppress", Duplicates::Suppress), ("process", Duplicates::Process)],
            Duplicates::default(),
        ),
        workflows,
        accept_versions: context.texts(&raw.accept_versions, "leave the key out to accept every version"),
        accept_processing_ids: context
            .texts(&raw.accept_processing_ids, "leave the key out to accept every id"),
        bounds: Bounds { buffer_limit_bytes: bounds.buffer_limit_bytes.max(stream_limit_bytes), ..bounds },
        allow: allow(raw, context),
        tls: raw.tls.given().map(|at| tls(&at.value, context)),
        tasks: tasks(raw, service, context),
        retry: retry(raw, context),
        patient_id_field,
        accession_number_field,
        archive_first,
        local_archive: files::archive(raw, context),
        attachment_field: context.optional_field_path(&raw.attachment_field),
        attachment_format: files::attachment_format(raw, context),
        attachment_output: files::attachment_output(raw, context),
        stamp: files::stamp(raw, context),
        drop_folders: files::drop_folders(raw, enabled, context),
        mapping,
        mapping_separator: raw.mapping_separator.given().map_or(" ".to_owned(), |at| at.value.0.clone()),
        db_mapping: database::lookups(raw, &variables, context),
        db_insert,
        db_metadata,
        credentials_metadata: metadata::task_fields(&raw.credentials_metadata, &variables, context),
        book_metadata: metadata::task_fields(&raw.book_metadata, &variables, context),
        mobile: metadata::mobile(raw, &variables, context),
        resend: resend::resolve(raw, context),
        solr_segments: solr_segments(raw, context),
        retention_failed_days: raw.retention_days.given().and_then(|at| context.days(&at.value.failed)),
        retention_quarantine_days: raw
            .retention_days
            .given()
            .and_then(|at| context.days(&at.value.quarantine)),
    }
}

impl Context<'_> {
    /// A number of days; none keeps everything.
    pub(super) fn days(&mut self, key: &Key<i64>) -> Option<u32> {
        key.given()?;
        let days = self.number(key, 1..=36_500, 1, "write at least 1 day, or null to keep everything");
        u32::try_from(days).ok()
    }
}

fn name(raw: &raw::Channel, context: &mut Context<'_>) -> String {
    let hint = "write letters, digits, _ . and -, first a letter or digit, at most 64";
    let Some(at) = raw.name.need(&raw.spot, "name", hint, context.report) else { return String::new() };
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts = at.value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts || at.value.len() > 64 || !at.value.bytes().all(sound) {
        context.report.error(&at.spot, format!("{} cannot name a channel", quoted(&at.value)), hint);
    }
    at.value.clone()
}

fn port(raw: &raw::Channel, context: &mut Context<'_>) -> u16 {
    let hint = "a channel's port is 1024 to 49151";
    let Some(at) = raw.port.need(&raw.spot, "port", hint, context.report) else { return 0 };
    let port = context.number(&raw.port, 1_024..=49_151, 0, hint);
    if port >= EPHEMERAL_FIRST {
        let what = format!("{port} is in the range the kernel takes ports for outgoing connections from");
        context.report.warn(&at.spot, what, "a port below 32768 is never taken");
    }
    u16::try_from(port).unwrap_or(0)
}

fn listen(raw: &raw::Channel, context: &mut Context<'_>) -> IpAddr {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let Some(at) = raw.listen.given() else { return any };
    at.value.trim_matches(['[', ']']).parse().unwrap_or_else(|_| {
        let what = format!("{} is no IP address", quoted(&at.value));
        context.report.error(&at.spot, what, "write an address of this machine: 0.0.0.0, ::, 10.1.2.3");
        any
    })
}

fn stream_limit(raw: &raw::Channel, buffer_limit_bytes: usize, context: &mut Context<'_>) -> usize {
    let Some(at) = raw.stream_limit.given() else { return to_usize(STREAM_LIMIT_BYTES) };
    let bytes = at.value.0;
    if bytes == 0 || bytes > STREAM_LIMIT_BYTES_MAX {
        context.report.error(&at.spot, format!("{bytes} bytes is out of range"), "write at most 1GiB");
        return to_usize(STREAM_LIMIT_BYTES);
    }
    if bytes < STREAM_LIMIT_BYTES_MIN {
        let what = format!("{bytes} bytes counts as 64 KiB");
        context.report.note(
            &at.spot,
            what,
            "a real message is easily larger, and nothing is set aside for it",
        );
    }
    if raw.buffer_limit.given().is_some() && to_usize(bytes) > buffer_limit_bytes {
        let what = format!("{bytes} bytes is over buffer_limit, {buffer_limit_bytes}");
        context.report.error(&at.spot, what, "the largest message must fit into buffer_limit");
    }
    to_usize(bytes.max(STREAM_LIMIT_BYTES_MIN))
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn encoding(raw: &raw::Channel, context: &mut Context<'_>) -> Encoding {
    let utf8 = Encoding::from_label("utf-8").expect("every table of encodings has it");
    let Some(at) = raw.encoding.given() else { return utf8 };
    Encoding::from_label(&at.value).unwrap_or_else(|| {
        let what = format!("unknown encoding {}", quoted(&at.value));
        context.report.error(&at.spot, what, "write utf-8, latin-1, cp1252, ascii, another codec, or auto");
        utf8
    })
}

fn workflows(raw: &raw::Channel, context: &mut Context<'_>) -> WorkflowTable {
    let mut table = WorkflowTable::standard();
    for (name, value) in raw.message_types.given().into_iter().flat_map(|at| &at.value) {
        let sound = |part: &str| {
            part.len() == 3 && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        let parts: Vec<&str> = name.value.split('^').collect();
        if name.value != "*" && (parts.len() > 2 || !parts.iter().all(|part| sound(part))) {
            let what = format!("{} is no message type", quoted(&name.value));
            context.report.error(
                &name.spot,
                what,
                "write TYPE^EVENT, TYPE, or \"*\" for every other: ADT^A01",
            );
            continue;
        }
        let hint = "write credentials, document, patient_merge or store";
        let section = Spot { place: name.spot.place, path: parent(&name.spot.path, &name.value) };
        let Some(value) = value.need(&section, &name.value, hint, context.report) else { continue };
        let Some(workflow) = context.word(value, &Workflow::ALL) else { continue };
        match name.value.as_str() {
            "*" => table.any = Some(workflow),
            _ => {
                table.by_type.insert(name.value.clone(), workflow);
            }
        }
    }
    table
}

/// The path of the table that a named entry stands in.
pub(super) fn parent(path: &str, name: &str) -> String {
    path.strip_suffix(name).map_or(path, |rest| rest.trim_end_matches('.')).to_owned()
}

fn bounds(raw: &raw::Channel, context: &mut Context<'_>) -> Bounds {
    let count = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
    let connections =
        context.number(&raw.max_connections, 1..=100_000, 256, "max_connections is 1 to 100000");
    let per_address = "max_connections_per_address is 1 to 100000";
    let per_address = context.number(&raw.max_connections_per_address, 1..=100_000, 64, per_address);
    let backlog = "max_backlog is 1 to 100000000";
    let backlog = context.number(&raw.max_backlog, 1..=100_000_000, 1_000_000, backlog);
    let buffer_limit = match raw.buffer_limit.given() {
        Some(at) if at.value.0 < STREAM_LIMIT_BYTES_MIN => {
            let what = format!("{} bytes is out of range", at.value.0);
            context.report.error(&at.spot, what, "write at least 64KiB, room for one message");
            BUFFER_LIMIT_BYTES
        }
        Some(at) => at.value.0,
        None => BUFFER_LIMIT_BYTES,
    };
    if let Some(at) = raw.message_timeout.given()
        && at.value.is_zero()
    {
        context.report.error(&at.spot, "a wait of zero", "a message that stops midway must end: 60s");
    }
    Bounds {
        connections_max: count(connections),
        connections_per_address_max: count(per_address),
        idle_timeout: raw.idle_timeout.or(Duration::ZERO),
        message_timeout: raw.message_timeout.or(Duration::from_secs(60)),
        buffer_limit_bytes: to_usize(buffer_limit),
        backlog_max: count(backlog),
    }
}

fn allow(raw: &raw::Channel, context: &mut Context<'_>) -> Vec<Network> {
    let Some(list) = raw.allow.given() else { return Vec::new() };
    if list.value.is_empty() {
        context.report.error(&list.spot, "an empty list", "leave the key out to let everybody connect");
    }
    list.value.iter().filter_map(|at| network(at, context)).collect()
}

fn network(at: &At<String>, context: &mut Context<'_>) -> Option<Network> {
    match at.value.parse::<Network>() {
        Ok(network) if network.base() == network.address => Some(network),
        Ok(network) => {
            let what = format!("{} has bits past its prefix", quoted(&at.value));
            let hint = format!("write {}/{} or {}", network.base(), network.prefix, network.address);
            context.report.error(&at.spot, what, hint);
            None
        }
        Err(()) => {
            let what = format!("{} is no network", quoted(&at.value));
            context.report.error(
                &at.spot,
                what,
                "write ADDRESS or ADDRESS/PREFIX: 10.0.0.0/8, 192.168.1.5, fd00::/8",
            );
            None
        }
    }
}

fn tls(raw: &raw::Tls, context: &mut Context<'_>) -> Tls {
    let required = |key: &Key<String>, name: &str, what: &str, context: &mut Context<'_>| {
        let hint = format!("write the path of the PEM file with the {what}");
        let at = key.need(&raw.spot, name, &hint, context.report).cloned();
        at.map(|at| context.local_path(&at)).unwrap_or_default()
    };
    let certificate = required(&raw.certificate, "certificate", "certificate chain", context);
    let key = required(&raw.key, "key", "private key", context);
    let client_ca = context.optional_path(&raw.client_ca);
    if let Some(at) = raw.client_names.given()
        && client_ca.is_none()
        && !matches!(raw.client_ca, Key::Wrong)
    {
        let what = "client_names without client_ca";
        context.report.error(&at.spot, what, "set client_ca: without it no client shows a certificate");
    }
    let names = context.texts(&raw.client_names, "leave the key out to let every client of the CA connect");
    Tls { certificate, key, client_ca, client_names: names.unwrap_or_default() }
}

fn tasks(raw: &raw::Channel, service: &Service, context: &mut Context<'_>) -> u16 {
    let most = i64::from(service.max_tasks);
    let hint = format!("tasks is 1 to max_tasks, which is {most}");
    let tasks = context.number(&raw.tasks, 1..=most, most.min(4), &hint);
    u16::try_from(tasks).unwrap_or(1)
}

fn retry(raw: &raw::Channel, context: &mut Context<'_>) -> Retry {
    let (first, longest, give_up) =
        (Duration::from_secs(1), Duration::from_secs(300), Duration::from_secs(72 * 3_600));
    let Some(at) = raw.retry.given() else { return Retry { first, longest, give_up } };
    let raw = &at.value;
    let first = context.wait(&raw.first, first);
    // The default of the longest wait makes room for a first one over it.
    let longest = context.wait(&raw.longest, longest.max(first));
    let give_up = context.wait(&raw.give_up, give_up.max(longest));
    if let Some(at) = raw.longest.given()
        && longest < first
    {
        let what = format!("longest is below first, {} s", first.as_secs_f64());
        context.report.error(&at.spot, what, "waits double from first up to longest");
    }
    if let Some(at) = raw.give_up.given()
        && give_up < first
    {
        let what = format!("give_up is below first, {} s", first.as_secs_f64());
        context.report.error(&at.spot, what, "leave room for at least one more try");
    }
    Retry { first, longest, give_up }
}

fn solr_segments(raw: &raw::Channel, context: &mut Context<'_>) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    let mut seen: HashSet<&str> = HashSet::new();
    for at in raw.solr_segments.given().into_iter().flat_map(|list| &list.value) {
        let name = at.value.as_str();
        let sound = name.len() == 3
            && name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !sound {
            let what = format!("{} is no segment", quoted(name));
            context.report.error(&at.spot, what, "a segment has three capital letters or digits: PID");
            continue;
        }
        if !check::is_solr_segment(name) {
            let what = format!("{name} is not one of the segments that are usually indexed");
            context.report.warn(&at.spot, what, "it is indexed all the same");
        }
        if seen.insert(name) {
            segments.push(name.to_owned());
        }
    }
    segments
}
