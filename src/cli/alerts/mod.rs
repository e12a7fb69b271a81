//! `alerts`: watches the conditions of the file's `alerts` and tells whoever is named there, once when one is raised
//! and once when it is cleared. The dashboard does the same beside its page.
//!
//! Deciding is [`conditions`], pure; telling is [`notify`]; between them is the [`desk`].

mod conditions;
mod desk;
mod memory;
mod notify;
mod surroundings;

use super::dashboard::board::{self, Board};
use super::dashboard::settings::Settings;
use super::dashboard::{signals, threads};
use super::{Fail, Outcome, output};
use conditions::{Change, Notice};
use desk::Desk;
use memory::{Memory, Remembered};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Watch for what the file's alerts name, without a page
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Tell a notice of this alert now, as a trial, and end
    #[arg(long = "try", value_name = "NAME")]
    trial: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Where what is raised is remembered.
#[derive(clap::Args)]
pub(super) struct Place {
    /// Folder that remembers what is raised over a restart [default: systemd's StateDirectory, else none]
    #[arg(long, value_name = "DIR")]
    alerts_state: Option<PathBuf>,
}

/// What the page shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Alerts in the file.
    pub(super) configured: usize,
    /// Those that stand.
    pub(super) raised: Vec<ShownAlert>,
    /// What keeps alerts from being watched or told.
    pub(super) faults: Vec<String>,
}

/// One that stands.
#[derive(Clone, Debug)]
pub(super) struct ShownAlert {
    pub(super) alert: String,
    pub(super) message: String,
    pub(super) since_us: i64,
}

/// Carries out `alerts`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    crate::logging::init();
    if let Some(name) = &arguments.trial {
        return try_one(config, name);
    }
    // Before any thread, so that every thread leaves them to this one.
    let signals = signals::block().map_err(|error| Fail::io("catch signals", &error.into()))?;
    let settings = Arc::new(Settings::load(config));
    if let Err(reason) = settings.config() {
        return Err(Fail::Configuration(reason));
    }
    let board = Arc::new(Board::new(settings.runtime_path()));
    start(&settings, &board, &arguments.place, Arc::default())?;
    let watched = Arc::clone(&board);
    threads::start("board", move || board::watch(&watched)).map_err(no_thread)?;
    signals::serve(&signals, &settings, &board);
    Ok(())
}

/// Watches from now on, in threads of its own.
pub(super) fn start(
    settings: &Arc<Settings>,
    board: &Arc<Board>,
    place: &Place,
    shown: Arc<Mutex<Shown>>,
) -> Outcome {
    let by_systemd = || std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    let folder = place.alerts_state.clone().or_else(by_systemd);
    let (memory, remembered) = match folder {
        Some(folder) => {
            let (memory, remembered) =
                Memory::open(&folder).map_err(|why| Fail::Failed(format!("alerts: {why}")))?;
            (Some(memory), remembered)
        }
        None => (None, Remembered::default()),
    };
    if memory.is_none() && settings.config().is_ok_and(|config| !config.service.alerts.is_empty()) {
        log::warn!(
            "alerts: no folder to remember in, so what is raised is told again after a restart. Set --alerts-state"
        );
    }
    let surroundings = Arc::new(Mutex::new(None));
    let (watched, seen) = (Arc::clone(settings), Arc::clone(&surroundings));
    threads::start("surroundings", move || surroundings::watch(&watched, &seen)).map_err(no_thread)?;
    let mut desk =
        Desk::new(Arc::clone(settings), Arc::clone(board), surroundings, shown, memory, remembered);
    threads::start("alerts", move || desk.run()).map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> Fail {
    Fail::io("start a thread", &error)
}

/// `--try`: so that nobody learns at night that the pager's script was wrong.
fn try_one(config: &Path, name: &str) -> Outcome {
    let loaded = super::server::load(config)?;
    let alert = loaded.config.service.alerts.iter().find(|alert| alert.name == name);
    let alert = alert.ok_or_else(|| Fail::Failed(format!("the file has no alert \"{name}\"")))?;
    let now = output::now_us();
    let notice = Notice {
        alert: alert.name.clone(),
        when: conditions::word(alert.when).to_owned(),
        state: Change::Raised,
        channel: None,
        subject: String::new(),
        message: "a trial: nothing is wrong".to_owned(),
        since_us: now,
        at_us: now,
    };
    notify::tell(&alert.action, &notice).map_err(|why| Fail::Failed(format!("alert \"{name}\": {why}")))
}
