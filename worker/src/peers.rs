//! What a delivery thread talks to peers with: each client is made when the first step needs it, and kept.

use crate::plan::Step;
use crate::step::{Attachments, Context, Progress};
use config::WorkerSettings;
use link::SecretValue;
use std::collections::BTreeMap;

/// The clients of one delivery thread.
#[derive(Debug)]
pub struct Peers<'a> {
    _settings: &'a WorkerSettings,
    _secrets: &'a BTreeMap<String, SecretValue>,
}

/// What the steps of one job gathered for a peer, to go out together.
#[derive(Debug, Default)]
pub struct Gathered {}

/// What became of it.
#[derive(Debug)]
pub struct Sent {
    results: Vec<Progress>,
}

impl Gathered {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        true
    }
}

impl Sent {
    /// How it ended for what was gathered as number `at`.
    pub fn of(&self, at: usize) -> Progress {
        self.results[at].clone()
    }
}

impl<'a> Peers<'a> {
    /// None yet.
    pub fn new(settings: &'a WorkerSettings, secrets: &'a BTreeMap<String, SecretValue>) -> Peers<'a> {
        Peers { _settings: settings, _secrets: secrets }
    }

    /// Carries out one step of one message, or gathers it.
    pub fn step(
        &mut self,
        step: &Step,
        _place: usize,
        _context: &Context<'_>,
        _attachments: &mut Attachments,
        _gathered: &mut Gathered,
    ) -> Progress {
        Progress::Failed(format!("this version cannot {step}"))
    }

    /// Sends what was gathered.
    pub fn send(&mut self, _gathered: Gathered) -> Sent {
        Sent { results: Vec::new() }
    }
}
