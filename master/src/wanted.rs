//! The loaded file as the master needs it: what each worker is given, and what a reload changes.
//!
//! With `files` the only place of this crate that looks into the configuration of a channel, and it looks no further than
//! name, port, address and the files that are handed over; the rest is handed on as text.

use crate::supervisor::Change;
use crate::{CheckTls, files};
use config::Config;
use config::secret::Secrets;
use link::{Files, SecretValue};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// A configuration that can be put in force.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// As loaded, but channels whose files cannot be used are disabled in it.
    pub(crate) config: Config,
    /// Channels that were disabled just now since files of theirs cannot be used, and why, one line each. A start does
    /// without them, for the sake of the others; a reload is refused.
    pub(crate) unusable: BTreeMap<String, Vec<String>>,
    /// The channels that run, with what their workers are given.
    pub(crate) launches: BTreeMap<String, Launch>,
    /// One line each.
    pub(crate) warnings: Vec<String>,
}

/// What a worker is given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    pub(crate) address: SocketAddr,
    /// `config::WorkerSettings` as JSON.
    pub(crate) settings: String,
    pub(crate) secrets: BTreeMap<String, SecretValue>,
    /// Another content of these alone leaves the worker running.
    pub(crate) files: Files,
    /// What `debug_mode` comes to.
    pub(crate) log_level: &'static str,
}

impl Wanted {
    /// Lets the log follow this configuration.
    pub(crate) fn follow_log(&self, follow: fn(bool, bool)) {
        let service = &self.config.service;
        follow(service.log_format == config::LogFormat::Json, service.debug_mode);
    }

    /// Loads the file, whole; or every error, one line each.
    pub(crate) fn load(path: &Path, check_tls: CheckTls) -> Result<Self, Vec<String>> {
        let secrets = Secrets::of_process();
        let loaded = config::load(path, &|name| secrets.is_known(name), config::Mode::Run)
            .map_err(|problems| problems.errors().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut config = loaded.config;
        let mut errors = Vec::new();
        let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let (mut handed, mut unusable) = (BTreeMap::new(), BTreeMap::new());
        for channel in config.channels.iter_mut().filter(|channel| channel.enabled) {
            let Some(tls) = &channel.tls else { continue };
            match checked(tls, check_tls) {
                Ok((files, told)) => {
                    warnings.extend(told.into_iter().map(|line| format!("{}: {line}", channel.name)));
                    handed.insert(channel.name.clone(), files);
                }
                Err(problems) => {
                    unusable.insert(channel.name.clone(), problems);
                    channel.enabled = false;
                }
            }
        }
        let mut launches = BTreeMap::new();
        for channel in config.channels.iter().filter(|channel| channel.enabled) {
            let files = handed.remove(&channel.name).unwrap_or_default();
            match Launch::of(&config, channel, &secrets, files) {
                Ok(launch) => {
                    launches.insert(channel.name.clone(), launch);
                }
                Err(error) => errors.push(format!("{}: {error}", channel.name)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self { config, unusable, launches, warnings })
    }

    /// What a reload from `old` to this one does with each channel; from `None`, the start. A secret whose value changed
    /// replaces the worker that uses it; a file whose
    /// contents changed does not.
    pub(crate) fn changes_from(&self, old: Option<&Self>) -> Vec<(String, Change)> {
        let Some(old) = old else {
            return self.launches.keys().map(|name| (name.clone(), Change::Start)).collect();
        };
        let changes = config::diff(&old.config, &self.config).into_iter();
        let launch_changed = |name: &String| match (old.launches.get(name), self.launches.get(name)) {
            (Some(old), Some(new)) => !old.is_same_but_for_files(new),
            (old, new) => old.is_some() != new.is_some(),
        };
        changes
            .map(|change| {
                let what = match change.action {
                    config::Action::Start => Change::Start,
                    config::Action::Stop => Change::Stop,
                    config::Action::Replace => Change::Replace,
                    config::Action::Keep if launch_changed(&change.channel) => Change::Replace,
                    config::Action::Keep => Change::Keep,
                };
                (change.channel, what)
            })
            .collect()
    }
}

/// The files of a channel's TLS, known to be usable, and what is to be warned of.
fn checked(tls: &config::Tls, check_tls: CheckTls) -> Result<(Files, Vec<String>), Vec<String>> {
    let (files, mut warnings) = files::of_tls(tls)?;
    warnings.extend(check_tls(tls, &files).map_err(|problem| vec![problem])?);
    Ok((files, warnings))
}

impl Launch {
    fn is_same_but_for_files(&self, other: &Self) -> bool {
        let Self { address, settings, secrets, files: _, log_level } = self;
        (address, settings, secrets, log_level)
            == (&other.address, &other.settings, &other.secrets, &other.log_level)
    }

    fn of(
        config: &Config,
        channel: &config::Channel,
        secrets: &Secrets,
        files: Files,
    ) -> Result<Self, String> {
        let settings = config.worker_settings(channel);
        let mut values = BTreeMap::new();
        for name in settings.secret_names() {
            // The load has found it; it can only have gone since.
            let value = secrets.lookup(&name).ok_or_else(|| format!("secret \"{name}\" is gone"))?;
            values.insert(name, SecretValue::new(value.reveal().to_owned()));
        }
        let log_level = if settings.debug_mode { "debug" } else { "info" };
        let settings =
            serde_json::to_string(&settings).map_err(|e| format!("settings cannot be sent: {e}"))?;
        let address = SocketAddr::new(channel.listen, channel.port);
        Ok(Self { address, settings, secrets: values, files, log_level })
    }
}
