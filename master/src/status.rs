//! Words for the state of a channel: in the answer to `status` and in the log.

use crate::control::{ChannelState, ChannelStatus};
use crate::supervisor::State;
use std::fmt::Write as _;
use std::path::Path;

/// The state as it is shown.
pub(crate) fn shown(state: State) -> ChannelState {
    match state {
        State::Unbound { .. } => ChannelState::Unbound,
        State::Starting { .. } => ChannelState::Starting,
        State::Ready { .. } => ChannelState::Ready,
        State::Draining { .. } => ChannelState::Draining,
        State::Doomed { .. } => ChannelState::Killed,
        State::Backoff { .. } => ChannelState::Backoff,
        State::Disabled => ChannelState::Disabled,
    }
}

/// The line that USR1 writes for a channel.
pub(crate) fn log_line(channel: &ChannelStatus, now_us: i64) -> String {
    let status = &channel.status;
    let uptime = now_us.saturating_sub(channel.since_us) / 1_000_000;
    let mut line = format!("{}: state={} port={}", channel.name, channel.state, channel.port);
    // Writing to a String cannot fail.
    let mut add = |text: std::fmt::Arguments<'_>| {
        let _ = line.write_fmt(text);
    };
    if let Some(pid) = channel.pid {
        add(format_args!(" pid={pid}"));
    }
    add(format_args!(" since={uptime} restarts={}", channel.restarts));
    add(format_args!(" connections={} received={}", status.connections, status.received));
    add(format_args!(" accepted={} refused={}", status.accepted, sum(&status.refused)));
    add(format_args!(" duplicates={} delivered={}", status.duplicates, status.delivered));
    add(format_args!(" waiting={} oldest={:.0}", status.waiting, status.oldest_waiting_seconds));
    add(format_args!(" failed={} slots={}", status.failed_now, status.slots_used));
    if let Some(problem) = &channel.problem {
        add(format_args!(" problem=\"{}\"", problem.escape_debug()));
    }
    line
}

fn sum(counters: &std::collections::BTreeMap<String, u64>) -> u64 {
    counters.values().fold(0, |sum, count| sum.saturating_add(*count))
}

/// Channels that left a journal below `state_path` and that `is_known` does not know, in name order.
pub(crate) fn left_behind(state_path: &Path, is_known: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(state_path) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let has_journal = |name: &String| {
        let files = std::fs::read_dir(state_path.join(name).join("journal"));
        let is_segment = |name: std::ffi::OsString| name.as_encoded_bytes().ends_with(b".seg");
        files.is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| is_segment(file.file_name()))))
    };
    let mut found: Vec<String> =
        names.filter(|name| !name.starts_with('.') && !is_known(name)).filter(has_journal).collect();
    found.sort();
    found.truncate(LEFT_BEHIND_MAX);
    found
}

/// Channels taken out of a file over the years are few; the answer to `status` stays bounded.
const LEFT_BEHIND_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_channel_with_segments_counts_as_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["old/journal", "empty/journal", "known/journal", ".hidden/journal", "other"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        for path in
            ["old/journal/1.seg", "empty/journal/1.mem", "known/journal/1.seg", ".hidden/journal/1.seg"]
        {
            std::fs::write(folder.path().join(path), "").unwrap();
        }
        assert_eq!(left_behind(folder.path(), |name| name == "known"), ["old"]);
        assert!(left_behind(&folder.path().join("missing"), |_| false).is_empty());
    }
}
