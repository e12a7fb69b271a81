//! What the oldest message of a channel waits for, where it has waited for a while: the status knows how long, only the
//! channel's worker knows why. A thread of its own asks; a worker that does not answer delays nothing else.

use super::board::Board;
use super::settings::Settings;
use crate::cli::server;
use link::{Answer, Question, Waiting};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(2);
/// Younger ones are on their way.
const WAITED_SECONDS: f64 = 5.0;
/// Channels that are asked in a round, those with the oldest first. When more stand still they do for one reason.
const ASKED_MAX: usize = 20;

/// By channel, the oldest message that waits.
pub(super) type Shared = Mutex<Arc<BTreeMap<String, Waiting>>>;

/// Asks for ever.
pub(super) fn watch(settings: &Settings, board: &Board, shared: &Shared) {
    loop {
        let found = look(settings, board);
        *shared.lock().unwrap_or_else(|e| e.into_inner()) = Arc::new(found);
        thread::sleep(INTERVAL);
    }
}

fn look(settings: &Settings, board: &Board) -> BTreeMap<String, Waiting> {
    let Some(status) = board.sight().filter(|sight| sight.fault.is_none()).and_then(|sight| sight.status)
    else {
        return BTreeMap::new();
    };
    let stands = |c: &&master::control::ChannelStatus| {
        c.pid.is_some() && c.status.waiting > 0 && c.status.oldest_waiting_seconds >= WAITED_SECONDS
    };
    let mut channels: Vec<_> = status.channels.iter().filter(stands).collect();
    channels.sort_by(|a, b| b.status.oldest_waiting_seconds.total_cmp(&a.status.oldest_waiting_seconds));
    let runtime_path = settings.runtime_path();
    let oldest = |name: &str| match server::ask(&runtime_path, name, Question::Queue { limit: 1 }) {
        Ok(Answer::Queue(waiting, _)) => waiting.into_iter().next(),
        // Its state says what is wrong with it.
        _ => None,
    };
    let channels = channels.into_iter().take(ASKED_MAX);
    channels.filter_map(|channel| Some((channel.name.clone(), oldest(&channel.name)?))).collect()
}
