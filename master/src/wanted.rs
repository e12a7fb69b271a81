//! The loaded file as the master needs it: what each worker is given, and what a reload changes.
//!
//! The only place of this crate that looks into the configuration of a channel, and it looks no further than name, port
//! and address; the rest is handed on as text.

use crate::supervisor::Change;
use config::Config;
use config::secret::Secrets;
use link::SecretValue;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// A configuration that can be put in force.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// As loaded, but channels that set something not built yet are disabled in it.
    pub(crate) config: Config,
    /// Why channels were disabled just now.
    pub(crate) not_built: BTreeMap<String, String>,
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
    pub(crate) fn load(path: &Path) -> Result<Self, Vec<String>> {
        let secrets = Secrets::of_process();
        let loaded = config::load(path, &|name| secrets.is_known(name), config::Mode::Run)
            .map_err(|problems| problems.errors().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut config = loaded.config;
        let mut errors = Vec::new();
        let mut not_built = BTreeMap::new();
        for missing in loaded.not_built {
            match missing.channel {
                None => errors.push(missing.problem.to_string()),
                Some(channel) => {
                    not_built.entry(channel).or_insert_with(|| missing.problem.to_string());
                }
            }
        }
        for channel in &mut config.channels {
            channel.enabled &= !not_built.contains_key(&channel.name);
        }
        let mut launches = BTreeMap::new();
        for channel in config.channels.iter().filter(|channel| channel.enabled) {
            match Launch::of(&config, channel, &secrets) {
                Ok(launch) => {
                    launches.insert(channel.name.clone(), launch);
                }
                Err(error) => errors.push(format!("{}: {error}", channel.name)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        Ok(Self { config, not_built, launches, warnings })
    }

    /// What a reload from `old` to this one does with each channel; from `None`, the start. A secret whose value changed
    /// replaces the worker that uses it.
    pub(crate) fn changes_from(&self, old: Option<&Self>) -> Vec<(String, Change)> {
        let Some(old) = old else {
            return self.launches.keys().map(|name| (name.clone(), Change::Start)).collect();
        };
        let changes = config::diff(&old.config, &self.config).into_iter();
        let launch_changed = |name: &String| old.launches.get(name) != self.launches.get(name);
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

impl Launch {
    fn of(config: &Config, channel: &config::Channel, secrets: &Secrets) -> Result<Self, String> {
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
        Ok(Self { address, settings, secrets: values, log_level })
    }
}
