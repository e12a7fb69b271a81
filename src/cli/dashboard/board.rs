//! What the master said last, and what can be told from how it changed. One thread asks once a second ([`watch`]); the
//! page, the metrics and the alerts look.

use super::health::{self, Health};
use super::history::History;
use crate::cli::server::ServerStatus;
use master::control::{self, Request, Response};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How often the master is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// It answers from memory, at once, or its loop stands still.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The shared picture.
#[derive(Debug)]
pub(in crate::cli) struct Board {
    runtime_path: Mutex<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    now: Option<Sight>,
    history: History,
    health: Health,
}

/// One look at the server.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Sight {
    /// What the master answered last; `None` while it never has.
    pub(in crate::cli) status: Option<Arc<ServerStatus>>,
    /// Why the last question had no answer; `status` is old then.
    pub(in crate::cli) fault: Option<String>,
    /// When the answer came that `status` is.
    pub(in crate::cli) answered_us: i64,
}

impl Board {
    /// Of the server below `runtime_path`, not asked yet.
    pub(in crate::cli) fn new(runtime_path: PathBuf) -> Board {
        Board { runtime_path: Mutex::new(runtime_path), seen: Mutex::default() }
    }

    /// The configuration was read again; the server may be asked elsewhere from now on.
    pub(in crate::cli) fn move_to(&self, runtime_path: PathBuf) {
        *locked(&self.runtime_path) = runtime_path;
    }

    /// The last look; `None` before the first.
    pub(in crate::cli) fn sight(&self) -> Option<Sight> {
        locked(&self.seen).now.clone()
    }

    /// The last look, with what is known of the time before it.
    pub(super) fn with<T>(&self, show: impl FnOnce(Option<&Sight>, &History, &Health) -> T) -> T {
        let seen = locked(&self.seen);
        show(seen.now.as_ref(), &seen.history, &seen.health)
    }

    fn see(&self, answer: Result<ServerStatus, String>, now: Instant) {
        let mut seen = locked(&self.seen);
        let Seen { now: sight, history, health } = &mut *seen;
        match answer {
            Ok(status) => {
                history.add(&status.channels, now);
                health.see(&status.channels, now);
                let answered_us = crate::cli::output::now_us();
                *sight = Some(Sight { status: Some(Arc::new(status)), fault: None, answered_us });
            }
            Err(fault) => {
                let (status, answered_us) =
                    sight.take().map_or((None, 0), |sight| (sight.status, sight.answered_us));
                *sight = Some(Sight { status, fault: Some(fault), answered_us });
            }
        }
    }

    fn runtime_path(&self) -> PathBuf {
        locked(&self.runtime_path).clone()
    }
}

/// Asks for ever.
pub(in crate::cli) fn watch(board: &Board) {
    let mut told = None;
    loop {
        let began = Instant::now();
        let answer = ask(&board.runtime_path());
        // Told when it changes, not once a second.
        if told.as_ref() != answer.as_ref().err() {
            match &answer {
                Ok(_) if told.is_some() => log::info!("the server answers again"),
                Ok(_) => {}
                Err(fault) => log::warn!("{fault}"),
            }
            told = answer.as_ref().err().cloned();
        }
        board.see(answer, Instant::now());
        thread::sleep(INTERVAL.saturating_sub(began.elapsed()));
    }
}

fn ask(runtime_path: &Path) -> Result<ServerStatus, String> {
    match control::call(runtime_path, &Request::Status { channel: None }, ANSWER_TIMEOUT) {
        Ok(Response::Status(status)) => Ok(status),
        Ok(Response::Error(reason)) => Err(reason),
        Ok(_) => Err("the server answered something else; is it of another version?".to_owned()),
        Err(fault) => Err(fault.to_string()),
    }
}

impl Sight {
    /// What keeps the server from being well, a line each; none when all is.
    pub(super) fn troubles(&self, health: &Health) -> Vec<String> {
        match (&self.fault, &self.status) {
            (Some(fault), _) => vec![fault.clone()],
            (None, Some(status)) => health.troubles(&status.channels),
            (None, None) => vec![health::NOT_ASKED.to_owned()],
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
