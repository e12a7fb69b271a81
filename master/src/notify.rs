//! What systemd is told (`Type=notify`). Without systemd nothing happens; a message that cannot be sent is no reason to
//! stop: the server works without.

use sd_notify::NotifyState;
use std::time::Duration;

/// The way to systemd, if there is one.
#[derive(Debug)]
pub(crate) struct Notify {
    /// How often systemd wants a sign of life from us: half of what it waits for.
    watchdog: Option<Duration>,
    /// The last STATUS, so that it is said only when it changes.
    status: String,
}

impl Notify {
    /// As the environment says.
    pub(crate) fn open() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled().map(|wanted| wanted / 2), status: String::new() }
    }

    /// Time between two signs of life; `None` where nobody waits for them.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Every enabled channel listens, or could not; also after a reload. What STATUS said before is said anew: systemd
    /// may show an older one.
    pub(crate) fn ready(&mut self) {
        send(&[NotifyState::Ready]);
        self.status.clear();
    }

    /// The file is being loaded.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// The workers drain.
    pub(crate) fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }

    /// A sign of life.
    pub(crate) fn alive(&self) {
        send(&[NotifyState::Watchdog]);
    }

    /// The line that `systemctl status` shows.
    pub(crate) fn status(&mut self, line: String) {
        if line != self.status {
            send(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        log::debug!("could not notify systemd: {e}");
    }
}
