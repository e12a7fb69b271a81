//! Old configuration × new one → what a reload does with each channel.

use crate::model::{Channel, Config, Password, WorkerSettings};
use crate::model::{DropTarget, Workflow};
use std::collections::BTreeSet;

/// What becomes of a channel at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was not there, or disabled.
    Start,
    /// It is gone, or disabled.
    Stop,
    /// Its worker's settings changed.
    Replace,
    /// Its worker keeps running and its connections stay.
    Keep,
}

/// A channel and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The channel's name.
    pub channel: String,
    /// What becomes of it.
    pub action: Action,
}

/// What a reload does: channels in the order of the new file, then those that are gone. A channel that is disabled in
/// both, or disabled and new, is left out. Secrets are not compared here, only their names.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let running = |config: &Config, name: &str| {
        config.channel(name).filter(|c| c.enabled).map(|c| config.worker_settings(c))
    };
    let mut changes = Vec::new();
    for channel in &new.channels {
        let after = channel.enabled.then(|| new.worker_settings(channel));
        let action = match (running(old, &channel.name), after) {
            (None, None) => continue,
            (None, Some(_)) => Action::Start,
            (Some(_), None) => Action::Stop,
            (Some(before), Some(after)) if before == after => Action::Keep,
            (Some(_), Some(_)) => Action::Replace,
        };
        changes.push(Change { channel: channel.name.clone(), action });
    }
    let gone = old.channels.iter().filter(|c| c.enabled && new.channel(&c.name).is_none());
    changes.extend(gone.map(|c| Change { channel: c.name.clone(), action: Action::Stop }));
    changes
}

impl Config {
    /// The channel of that name.
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.name == name)
    }

    /// What the worker of a channel is given: those global settings only that its plan uses, so that a change of
    /// others leaves it alone.
    pub fn worker_settings(&self, channel: &Channel) -> WorkerSettings {
        let service = &self.service;
        let filters = channel.resend.as_ref().is_some_and(|resend| resend.filter.is_some());
        let makes_credentials = service.create_credentials
            && (channel.workflows.uses(Workflow::Credentials)
                || channel.workflows.uses(Workflow::PatientMerge));
        WorkerSettings {
            channel: channel.clone(),
            state_path: service.state_path.clone(),
            log_format: service.log_format,
            debug_mode: service.debug_mode,
            solr: service.solr.clone().filter(|_| service.store_solr || filters),
            store_solr: service.store_solr,
            dfapi: service.dfapi.clone().filter(|_| makes_credentials),
        }
    }
}

impl WorkerSettings {
    /// Names of the secrets that this worker needs.
    pub fn secret_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut add = |name: &crate::secret::SecretName| names.insert(name.to_string());
        if let Some(Password::Named(name)) = self.solr.as_ref().map(|solr| &solr.password) {
            add(name);
        }
        if let Some(name) = self.dfapi.as_ref().and_then(|dfapi| dfapi.token.as_ref()) {
            add(name);
        }
        if let Some(name) = self.channel.db_insert.as_ref().and_then(|db| db.password.as_ref()) {
            add(name);
        }
        for folder in &self.channel.drop_folders {
            if let DropTarget::Remote(remote) = &folder.target {
                remote.passphrase.iter().chain(&remote.password).for_each(|name| {
                    add(name);
                });
            }
        }
        names
    }
}
