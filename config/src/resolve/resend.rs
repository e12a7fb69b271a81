//! `resend`: forwarding to another HL7 server.

use super::Context;
use super::service::core_name;
use crate::model::{ClientTls, Resend, ResendFilter};
use crate::problem::quoted;
use crate::raw;
use crate::raw::read::{At, Key, SwitchOr};
use std::collections::BTreeSet;
use std::time::Duration;

/// Codes that an acknowledgment can carry (HL7 table 0008).
const CODES: [&str; 6] = ["AA", "AE", "AR", "CA", "CE", "CR"];

/// `None` where it is absent or disabled; a disabled one is checked.
pub(super) fn resolve(raw: &raw::Channel, context: &mut Context<'_>) -> Option<Resend> {
    let raw = &raw.resend.given()?.value;
    let server = raw.server.need(&raw.spot, "server", "write the host that messages go to", context.report);
    let server = server.cloned().map(|at| context.host(&at));
    let hint = "write the port that messages go to";
    let port = raw.port.need(&raw.spot, "port", hint, context.report).map(|_| ());
    let port = port.map(|()| context.remote_port(&raw.port, 0));
    let timeout = context.wait(&raw.timeout, Duration::from_secs(30));
    let filter = raw.filter.given().and_then(|at| filter(&at.value, context));
    let tls = raw.tls.given().and_then(|at| match &at.value {
        SwitchOr::Switch(true) => {
            Some(ClientTls { ca_file: None, certificate: None, key: None, verify_name: None })
        }
        SwitchOr::Switch(false) => None,
        SwitchOr::Section(section) => Some(tls(section, context)),
    });
    let accept_codes = accept_codes(raw, context);
    let resend = Resend {
        server: server?,
        port: port?,
        timeout,
        after_processing: raw.after_processing.is_true(),
        filter,
        tls,
        accept_codes,
    };
    raw.enabled.is_not_false().then_some(resend)
}

fn accept_codes(raw: &raw::Resend, context: &mut Context<'_>) -> BTreeSet<String> {
    let Some(list) = raw.accept_codes.given() else {
        return ["AA", "CA"].map(str::to_owned).into();
    };
    if list.value.is_empty() {
        context.report.error(&list.spot, "an empty list", "write the codes that count as done: [AA, CA]");
    }
    for at in &list.value {
        if !CODES.contains(&at.value.as_str()) {
            let what = format!("{} is no acknowledgment code", quoted(&at.value));
            context.report.error(&at.spot, what, "known are AA, AE, AR, CA, CE, CR");
        }
    }
    list.value.iter().map(|at| at.value.clone()).collect()
}

fn filter(raw: &raw::ResendFilter, context: &mut Context<'_>) -> Option<ResendFilter> {
    let need = |key: &Key<String>, name: &str, hint: &str, context: &mut Context<'_>| {
        key.need(&raw.spot, name, hint, context.report).cloned()
    };
    let source_core = need(&raw.source_core, "source_core", "write the Solr core that is searched", context);
    if let Some(at) = &source_core {
        core_name(at, context);
    }
    let match_source =
        need(&raw.match_source, "match_source", "write the field path whose value is searched for", context);
    let match_source = match_source.and_then(|at| context.field_path(&at));
    let match_field = need(&raw.match_field, "match_field", "write the Solr field that holds it", context);
    let match_field = match_field.map(|at| solr_field(&at, context));
    let search_field =
        need(&raw.search_field, "search_field", "write the Solr field that is looked at", context);
    let search_field = search_field.map(|at| solr_field(&at, context));
    let hint = "list the values that forward a message";
    let match_values = raw.match_values.need(&raw.spot, "match_values", hint, context.report);
    if let Some(at) = match_values
        && at.value.is_empty()
    {
        context.report.error(&at.spot, "an empty list", hint);
    }
    Some(ResendFilter {
        source_core: source_core?.value,
        match_source: match_source?,
        match_field: match_field?,
        search_field: search_field?,
        match_values: match_values?.value.iter().map(|at| at.value.0.clone()).collect(),
    })
}

/// A field of Solr. It stands in a query, where another character would be syntax.
fn solr_field(at: &At<String>, context: &mut Context<'_>) -> String {
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts = at.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !at.value.bytes().all(sound) {
        let what = format!("{} cannot name a Solr field", quoted(&at.value));
        context.report.error(&at.spot, what, "letters, digits, _ . and -, first a letter or _");
    }
    at.value.clone()
}

fn tls(raw: &raw::ClientTls, context: &mut Context<'_>) -> ClientTls {
    let tls = ClientTls {
        ca_file: context.optional_path(&raw.ca_file),
        certificate: context.optional_path(&raw.certificate),
        key: context.optional_path(&raw.key),
        verify_name: raw.verify_name.given().map(|at| context.host(at)),
    };
    let lone = match (raw.certificate.given(), raw.key.given()) {
        (Some(at), None) => Some((at, "a certificate without its key", "set key")),
        (None, Some(at)) => Some((at, "a key without its certificate", "set certificate")),
        (Some(_), Some(_)) | (None, None) => None,
    };
    if let Some((at, what, hint)) = lone {
        context.report.error(&at.spot, what, hint);
    }
    tls
}
