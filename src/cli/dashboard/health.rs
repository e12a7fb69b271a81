//! PURE: whether a channel does what its file asks of it.

use master::control::{ChannelState, ChannelStatus};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Before the first answer.
pub(super) const NOT_ASKED: &str = "the server has not been asked yet";

/// A worker that is replaced at a reload is gone for a moment, in which connections wait and none is refused: that is
/// no trouble, and a balancer must not take the machine out for it.
const REPLACED_MAX: Duration = Duration::from_secs(5);

/// When each channel was up last.
#[derive(Debug, Default)]
pub(super) struct Health {
    up_at: BTreeMap<String, Instant>,
    now: Option<Instant>,
}

impl Health {
    /// Takes in an answer of the master.
    pub(super) fn see(&mut self, channels: &[ChannelStatus], now: Instant) {
        self.now = Some(now);
        for channel in channels.iter().filter(|channel| trouble(channel).is_none()) {
            self.up_at.insert(channel.name.clone(), now);
        }
        self.up_at.retain(|name, _| channels.iter().any(|channel| channel.name == *name));
    }

    /// What is wrong with enabled channels, a line each.
    pub(super) fn troubles(&self, channels: &[ChannelStatus]) -> Vec<String> {
        channels.iter().filter_map(|channel| self.trouble(channel)).collect()
    }

    /// What is wrong with one; `None` also while it is being replaced.
    pub(super) fn trouble(&self, channel: &ChannelStatus) -> Option<String> {
        let what = trouble(channel)?;
        let changes = matches!(channel.state, ChannelState::Draining | ChannelState::Starting);
        let was_up = self.up_at.get(&channel.name).copied().zip(self.now);
        let recently = was_up.is_some_and(|(at, now)| now.saturating_duration_since(at) <= REPLACED_MAX);
        if changes && recently { None } else { Some(format!("{}: {what}", channel.name)) }
    }
}

/// Whether the file asks for this channel.
pub(in crate::cli) fn is_enabled(channel: &ChannelStatus) -> bool {
    !matches!(channel.state, ChannelState::Off | ChannelState::Removed)
}

/// What keeps an enabled channel from receiving; `None` when it does, or is not meant to.
pub(in crate::cli) fn trouble(channel: &ChannelStatus) -> Option<String> {
    let state = match channel.state {
        ChannelState::Ready if channel.status.closed_for_room => "closed for want of room on the disk",
        ChannelState::Ready | ChannelState::Off | ChannelState::Removed => return None,
        ChannelState::Unbound
        | ChannelState::Starting
        | ChannelState::Draining
        | ChannelState::Killed
        | ChannelState::Backoff
        | ChannelState::Disabled => channel.state.name(),
    };
    match &channel.problem {
        Some(problem) => Some(format!("{state}: {problem}")),
        None => Some(state.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::channel;
    use super::*;

    fn in_state(state: ChannelState) -> ChannelStatus {
        ChannelStatus { state, ..channel("a", 0, 0) }
    }

    #[test]
    fn off_and_removed_are_no_trouble_and_everything_else_but_ready_is() {
        let health = Health::default();
        let quiet = [ChannelState::Ready, ChannelState::Off, ChannelState::Removed];
        assert_eq!(health.troubles(&quiet.map(in_state)), Vec::<String>::new());
        for state in
            [ChannelState::Unbound, ChannelState::Backoff, ChannelState::Disabled, ChannelState::Starting]
        {
            assert_eq!(health.troubles(&[in_state(state)]), [format!("a: {state}")]);
        }
        let mut full = channel("a", 0, 0);
        full.status.closed_for_room = true;
        assert_eq!(health.troubles(&[full]), ["a: closed for want of room on the disk"]);
        let taken =
            ChannelStatus { problem: Some("port 1: in use".into()), ..in_state(ChannelState::Unbound) };
        assert_eq!(health.troubles(&[taken]), ["a: unbound: port 1: in use"]);
    }

    #[test]
    fn a_replacement_is_no_trouble_unless_it_lasts() {
        let (start, mut health) = (Instant::now(), Health::default());
        health.see(&[in_state(ChannelState::Ready)], start);
        for state in [ChannelState::Draining, ChannelState::Starting] {
            health.see(&[in_state(state)], start + Duration::from_secs(4));
            assert!(health.troubles(&[in_state(state)]).is_empty());
        }
        assert_eq!(health.troubles(&[in_state(ChannelState::Backoff)]).len(), 1, "a death is none");
        health.see(&[in_state(ChannelState::Draining)], start + Duration::from_secs(6));
        assert_eq!(health.troubles(&[in_state(ChannelState::Draining)]), ["a: draining"]);
    }
}
