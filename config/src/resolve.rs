//! Raw → typed. Every check of the reference's tables is made here, and every problem of a file is reported: where a
//! value is wrong its default stands in, so that the rest can still be looked at.

mod channel;
mod check;
mod database;
mod files;
mod metadata;
mod resend;
mod service;

use crate::model::{Config, Password};
use crate::problem::{Report, Severity, Spot, quoted};
use crate::raw;
use crate::raw::read::{FreeText, Key};
use crate::secret::SecretName;
use crate::{Mode, secret};
use std::collections::{HashMap, HashSet};

/// What a resolver needs besides the raw values.
pub(crate) struct Context<'a> {
    /// Where problems go.
    pub(crate) report: &'a mut Report,
    /// Whether a secret of that name is known.
    pub(crate) known_secret: &'a dyn Fn(&str) -> bool,
    /// What an unknown secret is.
    pub(crate) mode: Mode,
}

/// Resolves a whole file.
pub(crate) fn resolve(raw: &raw::Service, context: &mut Context<'_>) -> Config {
    let mut service = service::resolve(raw, context);
    let mut channels = Vec::new();
    match raw.channels.need(&raw.spot, "channels", "a server has at least one channel", context.report) {
        // An include that could not be followed leaves an empty list behind: that one is told of already.
        Some(list) if list.value.is_empty() && !context.report.has_errors() => {
            context.report.error(&list.spot, "no channel", "a server has at least one channel");
        }
        Some(list) => {
            unique_names_and_ports(&list.value, context.report);
            channels.extend(list.value.iter().map(|c| channel::resolve(&c.value, &service, context)));
            files::check_shared_archives(&list.value, &channels, context);
        }
        None => {}
    }
    service::check_against_channels(raw, &mut service, &channels, context);
    Config { service, channels }
}

fn unique_names_and_ports(list: &raw::read::List<raw::Channel>, report: &mut Report) {
    let mut names: HashMap<String, Spot> = HashMap::new();
    let mut ports: HashMap<i64, Spot> = HashMap::new();
    for channel in list {
        if let Some(name) = channel.value.name.given() {
            // State folders are named after channels; some file systems know no case.
            match names.get(&name.value.to_lowercase()) {
                Some(first) => {
                    let what =
                        format!("{} is taken, see {}", quoted(&name.value), report.name_of(first.place));
                    report.error(&name.spot, what, "a channel's name is unique");
                }
                None => {
                    names.insert(name.value.to_lowercase(), name.spot.clone());
                }
            }
        }
        if !channel.value.enabled.is_not_false() {
            continue;
        }
        if let Some(port) = channel.value.port.given() {
            match ports.get(&port.value) {
                Some(first) => {
                    let what = format!("{} is taken, see {}", port.value, report.name_of(first.place));
                    report.error(&port.spot, what, "the port of an enabled channel is unique");
                }
                None => {
                    ports.insert(port.value, port.spot.clone());
                }
            }
        }
    }
}

impl Context<'_> {
    /// The name of a secret. `used`: the part of the configuration that needs it runs.
    fn secret(&mut self, key: &Key<FreeText>, used: bool) -> Option<SecretName> {
        let at = key.given()?;
        let Some(name) = SecretName::new(&at.value.0) else {
            // What stands here may be the secret itself: it is not shown.
            let what = "not the name of a secret";
            self.report.error(
                &at.spot,
                what,
                "write the NAME of a systemd credential or environment variable",
            );
            return None;
        };
        self.known(&name, &at.spot, used);
        Some(name)
    }

    fn known(&mut self, name: &SecretName, spot: &Spot, used: bool) {
        if (self.known_secret)(name.as_str()) {
            return;
        }
        let what = match name.looks_like_a_variable() {
            true => format!("the secret {name} is not known here"),
            false => "the secret of this name is not known here".to_owned(),
        };
        let severity = if used && self.mode == Mode::Run { Severity::Error } else { Severity::Warning };
        let hint = "set it as a systemd credential (LoadCredential=) or environment variable of that name";
        self.report.add(severity, spot, what, hint);
    }

    /// A password that may be given as the name of a variable, or in plain; the variable SOLR_TOKEN by default.
    fn password(&mut self, key: &Key<FreeText>, section: &Spot, used: bool) -> Password {
        match key.given() {
            Some(at) if secret::may_name_a_variable(&at.value.0) && (self.known_secret)(&at.value.0) => {
                SecretName::new(&at.value.0).map(Password::Named)
            }
            Some(at) => Some(Password::Plain(secret::PlainSecret::new(at.value.0.clone()))),
            None => None,
        }
        .unwrap_or_else(|| {
            let name = SecretName::new("SOLR_TOKEN").expect("letters and an underscore");
            if used {
                let spot = section.key("password", section.place);
                self.known(&name, &spot, used);
            }
            Password::Named(name)
        })
    }
}

/// Names that variables of a message go by: mappings, and look-ups where there are any.
pub(crate) struct Variables<'a> {
    /// Of `mapping`.
    pub(crate) mapped: HashSet<&'a str>,
    /// Of `db_mapping`.
    pub(crate) looked_up: HashSet<&'a str>,
}

impl<'a> Variables<'a> {
    fn of(raw: &'a raw::Channel) -> Variables<'a> {
        let mapped = raw.mapping.given().into_iter().flat_map(|at| at.value.iter());
        let looked_up = raw.db_mapping.given().into_iter().flat_map(|at| at.value.iter());
        Variables {
            mapped: mapped.map(|(name, _)| name.value.as_str()).collect(),
            looked_up: looked_up.map(|(name, _)| name.value.as_str()).collect(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.mapped.contains(name) || self.looked_up.contains(name)
    }

    /// `did you mean X`, or what would be right.
    fn hint(&self, name: &str) -> String {
        match crate::raw::read::nearest(name, self.mapped.iter().chain(&self.looked_up).copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => "write the name of a mapping or db_mapping".to_owned(),
        }
    }
}
