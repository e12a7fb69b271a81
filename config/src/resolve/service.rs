//! The keys at the root: the service itself, Solr, dfapi, alerts.

use super::Context;
use crate::model::{Alert, AlertAction, AlertWhen, Channel, Dfapi, LogFormat, Service, SolrServer, Workflow};
use crate::problem::{Spot, quoted};
use crate::raw;
use crate::raw::read::{AnyScalar, At, Key};
use crate::yaml::parse_wait;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn resolve(raw: &raw::Service, context: &mut Context<'_>) -> Service {
    let store_solr = raw.store_solr.is_true();
    let create_credentials = raw.create_credentials.is_true();
    if raw.debug_values.is_true()
        && let Some(at) = raw.debug_values.given()
    {
        let what = "every field of every message goes into the log";
        context.report.warn(&at.spot, what, "it holds patient data, switch it off when done");
    }
    let max_tasks = context.number(&raw.max_tasks, 1..=65_535, 32, "max_tasks is 1 to 65535");
    Service {
        debug_values: raw.debug_values.is_true(),
        debug_mode: raw.debug_mode.is_true(),
        config_version: raw.config_version.given().map(|at| at.value.clone()),
        max_tasks: u16::try_from(max_tasks).unwrap_or(u16::MAX),
        store_solr,
        create_credentials,
        solr: solr(raw, context, store_solr || filters_by_solr(raw)),
        dfapi: dfapi(raw, context, create_credentials),
        user: account(&raw.user, context),
        group: account(&raw.group, context),
        stop_timeout: context.wait(&raw.stop_timeout, 30 * SECOND),
        alerts: alerts(raw, context),
        state_path: context.absolute_path(&raw.state_path, "/var/lib/hl7server"),
        runtime_path: context.absolute_path(&raw.runtime_path, "/run/hl7server"),
        log_format: context.choice(
            &raw.log_format,
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
    }
}

/// What can only be judged when the channels are known.
pub(super) fn check_against_channels(
    raw: &raw::Service,
    service: &mut Service,
    channels: &[Channel],
    context: &mut Context<'_>,
) {
    for alert in raw.alerts.given().into_iter().flat_map(|list| &list.value) {
        for at in alert.value.channels.given().into_iter().flat_map(|list| &list.value) {
            if !channels.iter().any(|channel| channel.name == at.value) {
                let near = raw::read::nearest(&at.value, channels.iter().map(|c| c.name.as_str()));
                let hint =
                    near.map_or("write the name of a channel".to_owned(), |n| format!("did you mean {n}?"));
                context.report.error(&at.spot, format!("no channel {}", quoted(&at.value)), hint);
            }
        }
    }
    if service.solr.is_none()
        && let Some(at) = raw.store_solr.given()
        && at.value
        && !matches!(raw.solr_servers, Key::Wrong)
    {
        context.report.error(&at.spot, "no active solr server", "set solr_servers, with one of them active");
    }
    if service.solr.is_none() && !matches!(raw.solr_servers, Key::Wrong) {
        for channel in raw.channels.given().into_iter().flat_map(|list| &list.value) {
            let resend = channel.value.resend.given().filter(|at| at.value.enabled.is_not_false());
            if let Some(filter) = resend.and_then(|at| at.value.filter.given()) {
                let what = "a filter without an active solr server: messages would wait for one";
                context.report.warn(&filter.spot, what, "set solr_servers");
            }
        }
    }
    let makes =
        |c: &&Channel| c.workflows.uses(Workflow::Credentials) || c.workflows.uses(Workflow::PatientMerge);
    if service.dfapi.is_none() && service.create_credentials {
        service.dfapi = Some(default_dfapi());
        if let Some(at) = raw.create_credentials.given()
            && channels.iter().filter(|c| c.enabled).any(|c| makes(&c))
        {
            let what = "dfapi is not set, so its defaults hold: https://localhost:443/ without a token";
            context.report.warn(&at.spot, what, "set dfapi");
        }
    }
}

/// Whether an enabled channel asks Solr before it forwards.
fn filters_by_solr(raw: &raw::Service) -> bool {
    raw.channels.given().into_iter().flat_map(|list| &list.value).any(|channel| {
        channel.value.enabled.is_not_false()
            && channel.value.resend.given().is_some_and(|resend| {
                resend.value.enabled.is_not_false() && resend.value.filter.given().is_some()
            })
    })
}

fn solr(raw: &raw::Service, context: &mut Context<'_>, used: bool) -> Option<SolrServer> {
    let mut active: Option<(SolrServer, Spot)> = None;
    for at in raw.solr_servers.given().into_iter().flat_map(|list| &list.value) {
        let is_active = at.value.active.is_not_false();
        let server = solr_server(&at.value, context, used && is_active);
        match &active {
            _ if !is_active => {}
            None => active = Some((server, at.spot.clone())),
            Some((_, first)) => {
                let what =
                    format!("a second active solr server, see {}", context.report.name_of(first.place));
                context.report.error(
                    &at.spot,
                    what,
                    "only one is supported, set active: false on the others",
                );
            }
        }
    }
    active.map(|(server, _)| server)
}

fn solr_server(raw: &raw::Solr, context: &mut Context<'_>, used: bool) -> SolrServer {
    if let Some(at) = raw.server_version.given() {
        let major: Option<u32> = at.value.split('.').next().and_then(|major| major.parse().ok());
        if !major.is_some_and(|major| (7..=9).contains(&major)) {
            let what = format!("solr {} was never tried", quoted(&at.value));
            context.report.warn(&at.spot, what, "7.x to 9.x are known to work");
        }
    }
    let certificate = certificate(&raw.certificate, "this solr server", context);
    let mut active_cores = Vec::new();
    for at in raw.active_cores.given().into_iter().flat_map(|list| &list.value) {
        core_name(at, context);
        active_cores.push(at.value.clone());
    }
    SolrServer {
        name: context.host_or(&raw.name, "localhost"),
        port: context.remote_port(&raw.port, 8_983),
        https: protocol(&raw.protocol, context),
        user: raw.user.or("istmia".to_owned()),
        password: context.password(&raw.password, &raw.spot, used),
        certificate,
        ca_file: context.optional_path(&raw.ca_file),
        active_cores,
        timeout: context.wait(&raw.timeout, 10 * SECOND),
    }
}

/// Solr's own rule for the name of a core. It becomes part of a URL.
pub(super) fn core_name(at: &At<String>, context: &mut Context<'_>) {
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if at.value.is_empty() || at.value.starts_with(['-', '.']) || !at.value.bytes().all(sound) {
        let what = format!("{} cannot name a core", quoted(&at.value));
        context.report.error(&at.spot, what, "letters, digits, _ . and -, not first a dot or dash");
    }
}

fn protocol(key: &Key<String>, context: &mut Context<'_>) -> bool {
    context.choice(key, &[("https", true), ("http", false)], true)
}

/// `certificate`, with a warning where it is off.
pub(super) fn certificate(key: &Key<bool>, whose: &str, context: &mut Context<'_>) -> bool {
    if let Some(at) = key.given()
        && !at.value
    {
        let what = format!("any certificate of {whose} is accepted");
        context.report.warn(&at.spot, what, "set ca_file to its CA instead");
    }
    key.is_not_false()
}

fn dfapi(raw: &raw::Service, context: &mut Context<'_>, used: bool) -> Option<Dfapi> {
    let raw = &raw.dfapi.given()?.value;
    let mut path = raw.path.or("/".to_owned());
    let sound =
        path.starts_with('/') && !path.contains(['?', '#', ' ']) && !path.chars().any(char::is_control);
    if let Some(at) = raw.path.given().filter(|_| !sound) {
        let what = format!("{} is no path of a URL", quoted(&path));
        context.report.error(&at.spot, what, "begin it with /, without ?, # and spaces");
    }
    path.truncate(path.trim_end_matches('/').len());
    Some(Dfapi {
        name: context.host_or(&raw.name, "localhost"),
        port: context.remote_port(&raw.port, 443),
        https: protocol(&raw.protocol, context),
        path,
        token: context.secret(&raw.token, used),
        certificate: certificate(&raw.certificate, "dfapi", context),
        ca_file: context.optional_path(&raw.ca_file),
        timeout: context.wait(&raw.timeout, 10 * SECOND),
    })
}

fn default_dfapi() -> Dfapi {
    Dfapi {
        name: "localhost".to_owned(),
        port: 443,
        https: true,
        path: String::new(),
        token: None,
        certificate: true,
        ca_file: None,
        timeout: 10 * SECOND,
    }
}

/// A user or group of this machine, by name. Whether it exists shows when the server starts.
fn account(key: &Key<String>, context: &mut Context<'_>) -> Option<String> {
    let at = key.given()?;
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if at.value.len() > 32 || !at.value.starts_with(first) || !at.value.bytes().all(sound) {
        let what = format!("{} is no name of a user or group", quoted(&at.value));
        context.report.error(&at.spot, what, "write a name, not a number");
    }
    Some(at.value.clone())
}

fn alerts(raw: &raw::Service, context: &mut Context<'_>) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for at in raw.alerts.given().into_iter().flat_map(|list| &list.value) {
        let Some(alert) = alert(&at.value, context) else { continue };
        if alerts.iter().any(|other| other.name == alert.name) {
            let spot = at.value.name.given().map_or(&at.spot, |name| &name.spot);
            context.report.error(
                spot,
                format!("{} is taken", quoted(&alert.name)),
                "an alert's name is unique",
            );
        }
        alerts.push(alert);
    }
    alerts
}

const WHEN: [(&str, AlertWhen); 7] = [
    ("silent", AlertWhen::Silent),
    ("waiting", AlertWhen::Waiting),
    ("failed", AlertWhen::Failed),
    ("refused", AlertWhen::Refused),
    ("down", AlertWhen::Down),
    ("disk", AlertWhen::Disk),
    ("certificate", AlertWhen::Certificate),
];

fn alert(raw: &raw::Alert, context: &mut Context<'_>) -> Option<Alert> {
    let name = raw.name.need(&raw.spot, "name", "name the alert", context.report);
    let words: Vec<&str> = WHEN.iter().map(|(word, _)| *word).collect();
    let hint = format!("write one of {}", words.join(", "));
    let when = raw.when.need(&raw.spot, "when", &hint, context.report);
    let when = when.and_then(|at| context.word(at, &WHEN));
    let hours = raw.hours.given().and_then(|at| hours(at, context));
    let limit = raw.limit.given().zip(when).and_then(|(at, when)| limit(at, when, context));
    let action = match (raw.command.given(), raw.webhook.given()) {
        (Some(command), None) => Some(AlertAction::Command(command_line(command, context))),
        (None, Some(url)) => Some(AlertAction::Webhook(webhook(url, context))),
        (Some(_), Some(url)) => {
            context.report.error(&url.spot, "a webhook besides a command", "keep one of them");
            None
        }
        (None, None) => {
            if !matches!(raw.command, Key::Wrong) && !matches!(raw.webhook, Key::Wrong) {
                context.report.error(&raw.spot, "an alert that tells nobody", "set command or webhook");
            }
            None
        }
    };
    let name = name.map(|at| {
        context.label(&at.value, &at.spot);
        at.value.clone()
    });
    let channels = raw.channels.given().into_iter().flat_map(|list| &list.value);
    let channels = channels.map(|at| at.value.clone()).collect();
    Some(Alert { name: name?, when: when?, limit, hours, channels, action: action? })
}

/// A limit in the condition's own unit. Waits may have a unit of time, the disk one of size.
fn limit(at: &At<AnyScalar>, when: AlertWhen, context: &mut Context<'_>) -> Option<u64> {
    let scalar = &at.value.0;
    let (value, hint) = match when {
        AlertWhen::Silent | AlertWhen::Waiting if !at.value.is_number() => (
            parse_wait(&scalar.text).map(|wait| wait.as_secs() / 60),
            "write minutes, or a duration: 15, 15m, 2h",
        ),
        AlertWhen::Silent | AlertWhen::Waiting => (unsigned(scalar.as_int()), "write minutes: 15"),
        AlertWhen::Disk => (scalar.as_bytes(), "write a size: 5GiB"),
        AlertWhen::Failed | AlertWhen::Refused => {
            (unsigned(scalar.as_int()), "write a number of messages: 10")
        }
        AlertWhen::Certificate => (unsigned(scalar.as_int()), "write a number of days: 30"),
        AlertWhen::Down => (unsigned(scalar.as_int()), "write minutes: 5"),
    };
    if value.is_none() {
        context.report.error(&at.spot, format!("{} is no limit of this alert", quoted(&scalar.text)), hint);
    }
    value
}

fn unsigned(value: Option<i64>) -> Option<u64> {
    value.and_then(|value| u64::try_from(value).ok())
}

/// `8-18` or `08:00-18:30`: first and last minute of the day.
fn hours(at: &At<String>, context: &mut Context<'_>) -> Option<(u16, u16)> {
    let minute = |text: &str| -> Option<u16> {
        let (hour, minute) = text.trim().split_once(':').unwrap_or((text.trim(), "0"));
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        ((hour < 24 && minute < 60) || (hour == 24 && minute == 0)).then_some(hour * 60 + minute)
    };
    let found = at.value.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    let found = found.filter(|(from, to)| from != to && *from < 1_440);
    if found.is_none() {
        let what = format!("{} are no hours of the day", quoted(&at.value));
        context.report.error(&at.spot, what, "write FROM-TO: 8-18 or 08:00-18:30");
    }
    found
}

fn command_line(at: &At<raw::read::OneOrMany<String>>, context: &mut Context<'_>) -> Vec<String> {
    let command = &at.value;
    let words: Vec<String> = match command.is_list {
        true => command.items.iter().map(|word| word.value.clone()).collect(),
        false => {
            let text = command.items.first().map_or("", |text| text.value.as_str());
            if text.contains(['\'', '"', '\\', '|', '>', '<', ';', '&', '$', '`']) {
                let what = "no shell reads this command";
                context.report.error(&at.spot, what, "write it as a list: [PROGRAM, ARGUMENT, …]");
            }
            text.split_whitespace().map(str::to_owned).collect()
        }
    };
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        context.report.error(&at.spot, "a command without a program", "begin with the program's whole path");
    }
    words
}

fn webhook(at: &At<String>, context: &mut Context<'_>) -> String {
    let rest = at.value.strip_prefix("https://").or_else(|| at.value.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let sound = host.is_some_and(|host| !host.is_empty()) && at.value.chars().all(|c| c.is_ascii_graphic());
    if !sound {
        context.report.error(&at.spot, "not a URL", "write http://HOST/PATH or https://HOST/PATH");
    }
    at.value.clone()
}
