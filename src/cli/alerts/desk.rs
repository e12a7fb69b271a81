//! Looks once a second and sees to it that somebody is told: each notice in a thread of its own, those of one alert in
//! their order. One that could not be told is tried again for a day: the network that raised the alert may be the one it
//! would travel.

use super::conditions::{Change, Moment, Notice, Seen, Watch};
use super::memory::{Memory, Remembered};
use super::surroundings::Surroundings;
use super::{Shown, ShownAlert, notify};
use crate::cli::dashboard::board::{Board, Sight};
use crate::cli::dashboard::settings::Settings;
use crate::cli::output;
use config::{Alert, AlertAction};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);
/// What is only a matter of minutes is kept so often.
const KEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Waits between tries of one notice.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LONGEST: Duration = Duration::from_secs(300);
/// A notice older than that is told by nobody.
const GIVE_UP_US: i64 = 24 * 3_600 * 1_000_000;
/// Notices that wait to be told; over it the oldest go.
const PENDING_MAX: usize = 1_000;

/// A notice on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    notice: Notice,
    #[serde(skip)]
    tries: u32,
    #[serde(skip)]
    due: Option<Duration>,
}

/// What is seen and what is to be told.
pub(super) struct Desk {
    settings: Arc<Settings>,
    board: Arc<Board>,
    surroundings: Arc<Mutex<Option<Surroundings>>>,
    shown: Arc<Mutex<Shown>>,
    memory: Option<Memory>,
    /// What the memory holds.
    kept: Remembered,
    kept_at: Option<Instant>,
    watch: Watch,
    pending: VecDeque<Pending>,
    /// Alerts with a notice on its way: the next one of the same waits for it.
    busy: BTreeSet<String>,
    told: mpsc::Sender<(String, Result<(), String>)>,
    outcomes: mpsc::Receiver<(String, Result<(), String>)>,
    started: Instant,
    started_us: i64,
    /// By alert, why its notice could not be told yet.
    faults: BTreeMap<String, String>,
}

impl Desk {
    /// With what was remembered; `memory` is where it came from.
    pub(super) fn new(
        settings: Arc<Settings>,
        board: Arc<Board>,
        surroundings: Arc<Mutex<Option<Surroundings>>>,
        shown: Arc<Mutex<Shown>>,
        memory: Option<Memory>,
        remembered: Remembered,
    ) -> Desk {
        let (told, outcomes) = mpsc::channel();
        Desk {
            settings,
            board,
            surroundings,
            shown,
            memory,
            kept: remembered.clone(),
            kept_at: None,
            watch: remembered.watch,
            pending: remembered.pending,
            busy: BTreeSet::new(),
            told,
            outcomes,
            started: Instant::now(),
            started_us: output::now_us(),
            faults: BTreeMap::new(),
        }
    }

    /// For ever.
    pub(super) fn run(&mut self) {
        loop {
            let began = Instant::now();
            self.turn();
            thread::sleep(INTERVAL.saturating_sub(began.elapsed()));
        }
    }

    fn turn(&mut self) {
        let config = self.settings.config();
        let alerts = config.as_ref().map(|config| config.service.alerts.as_slice()).unwrap_or_default();
        self.collect();
        if config.is_ok() {
            self.look(alerts);
            // A notice of an alert that is no longer in the file has nobody to go to.
            let is_there = |notice: &Notice| alerts.iter().any(|alert| alert.name == notice.alert);
            self.pending.retain(|pending| is_there(&pending.notice));
            self.send(alerts);
        }
        self.keep();
        let mut faults: Vec<String> = config.as_ref().err().cloned().into_iter().collect();
        // One that is no longer in the file has nothing to tell.
        self.faults.retain(|name, _| config.is_err() || alerts.iter().any(|alert| alert.name == *name));
        faults.extend(self.faults.iter().map(|(alert, why)| format!("{alert} could not be told: {why}")));
        let raised = self.watch.raised.iter().map(|raised| ShownAlert {
            alert: raised.alert.clone(),
            message: raised.message.clone(),
            since_us: raised.since_us,
        });
        let shown = Shown { configured: alerts.len(), raised: raised.collect(), faults };
        *self.shown.lock().unwrap_or_else(|e| e.into_inner()) = shown;
    }

    fn look(&mut self, alerts: &[Alert]) {
        let Some(Sight { status, fault, .. }) = self.board.sight() else { return };
        let server = match (&fault, &status) {
            (None, Some(status)) => Ok(&**status),
            (fault, _) => Err(fault.as_deref().unwrap_or("the server does not answer")),
        };
        let surroundings = self.surroundings.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let seen = Seen { server, surroundings: surroundings.as_ref() };
        for notice in self.watch.look(alerts, &seen, self.now()) {
            log::warn!("alert \"{}\" {}: {}", notice.alert, changed(notice.state), notice.message);
            if self.pending.len() >= PENDING_MAX {
                self.pending.pop_front();
            }
            self.pending.push_back(Pending { notice, tries: 0, due: None });
        }
    }

    /// Starts what is due, the oldest of each alert.
    fn send(&mut self, alerts: &[Alert]) {
        let now = self.started.elapsed();
        let mut seen = self.busy.clone();
        for pending in &mut self.pending {
            let notice = &pending.notice;
            let Some(alert) = alerts.iter().find(|alert| alert.name == notice.alert) else { continue };
            // A later notice of the same alert waits, also while the first one waits for its next try.
            if !seen.insert(alert.name.clone()) || pending.due.is_some_and(|due| now < due) {
                continue;
            }
            self.busy.insert(alert.name.clone());
            spawn(alert.action.clone(), notice.clone(), self.told.clone());
        }
    }

    /// Takes in how sending went.
    fn collect(&mut self) {
        while let Ok((alert, outcome)) = self.outcomes.try_recv() {
            self.busy.remove(&alert);
            let Some(at) = self.pending.iter().position(|pending| pending.notice.alert == alert) else {
                continue;
            };
            let why = match outcome {
                Ok(()) => {
                    self.pending.remove(at);
                    self.faults.remove(&alert);
                    continue;
                }
                Err(why) => why,
            };
            let now_us = self.now().us;
            let pending = &mut self.pending[at];
            if now_us - pending.notice.at_us > GIVE_UP_US {
                log::error!("alert \"{alert}\": {why}; given up after a day");
                self.pending.remove(at);
                self.faults.remove(&alert);
                continue;
            }
            let wait = RETRY_FIRST.saturating_mul(1 << pending.tries.min(16)).min(RETRY_LONGEST);
            pending.tries += 1;
            pending.due = Some(self.started.elapsed() + wait);
            log::error!("alert \"{alert}\": {why}; trying again in {} s", wait.as_secs());
            self.faults.insert(alert, why);
        }
    }

    fn keep(&mut self) {
        let Some(memory) = &self.memory else { return };
        let now = Remembered { watch: self.watch.lasting(), pending: self.pending.clone() };
        let told = |kept: &Remembered| (kept.watch.raised.clone(), kept.pending.clone());
        // When a busy channel's last message came changes every second, and may be a minute old.
        let is_due = self.kept_at.is_none_or(|at| at.elapsed() >= KEEP_INTERVAL);
        if now == self.kept || (told(&now) == told(&self.kept) && !is_due) {
            return;
        }
        match memory.keep(&now) {
            Ok(()) => (self.kept, self.kept_at) = (now, Some(Instant::now())),
            Err(error) => log::warn!("alerts: could not remember what is raised: {}", output::plain(&error)),
        }
    }

    fn now(&self) -> Moment {
        let elapsed = i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        let local = jiff::Zoned::now().time();
        let hours = local.hour().unsigned_abs();
        let second_of_day = u32::from(hours) * 3600
            + u32::from(local.minute().unsigned_abs()) * 60
            + u32::from(local.second().unsigned_abs());
        Moment { us: self.started_us.saturating_add(elapsed), second_of_day }
    }
}

fn spawn(action: AlertAction, notice: Notice, told: mpsc::Sender<(String, Result<(), String>)>) {
    thread::spawn(move || {
        // Without an outcome the alert would be silent for good.
        let outcome = catch_unwind(AssertUnwindSafe(|| notify::tell(&action, &notice)));
        let outcome =
            outcome.unwrap_or_else(|_| Err("it could not be told for a fault of our own".to_owned()));
        let _ = told.send((notice.alert, outcome));
    });
}

fn changed(state: Change) -> &'static str {
    match state {
        Change::Raised => "raised",
        Change::Cleared => "cleared",
    }
}
