//! What workers say, and how they end.

use super::Server;
use crate::audit::{self, Entry};
use crate::spawn::Process;
use crate::supervisor::{Event, State, WorkerId};
use link::{Death, LinkError, MasterEnd, Report};
use rustix::process::{WaitOptions, wait};

/// A living worker, or one that is dead and not reaped.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) channel: String,
    pub(super) process: Process,
    /// `None` once it is closed or broken.
    pub(super) link: Option<MasterEnd>,
    /// Why it says that it cannot start.
    pub(super) reason: Option<String>,
}

impl Worker {
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Server {
    /// A worker's link has something to read, or room to write.
    pub(super) fn attend(&mut self, worker: WorkerId) {
        let Some(link) = self.workers.get_mut(&worker).and_then(|worker| worker.link.as_mut()) else {
            return;
        };
        // A broken pipe shows in reading too, after the last words.
        let _ = link.write_ready();
        match link.read_ready() {
            Ok(reports) => reports.into_iter().for_each(|report| self.report(worker, report)),
            Err(fault) => self.link_ended(worker, &fault),
        }
    }

    fn link_ended(&mut self, worker: WorkerId, fault: &LinkError) {
        let Some(ended) = self.workers.get_mut(&worker) else { return };
        ended.link = None;
        match fault {
            LinkError::Closed => self.apply(Event::Mute { worker }),
            LinkError::Breach(_) | LinkError::Backlog | LinkError::TimedOut | LinkError::Io(_) => {
                log::error!("{}: link of worker {}: {fault}", ended.channel, ended.pid());
                self.apply(Event::Breach { worker });
            }
        }
    }

    fn report(&mut self, worker: WorkerId, report: Report) {
        let Some(sender) = self.workers.get_mut(&worker) else { return };
        let note = self.notes.entry(sender.channel.clone()).or_default();
        match report {
            Report::Ready { pid, waiting } => {
                // Once a life: a worker that says it again and again fills no log.
                let view = self.supervisor.view(&sender.channel).map(|view| view.state);
                if matches!(view, Some(State::Starting { .. })) {
                    note.problem = None;
                    let address = self.wanted.launches.get(&sender.channel).map(|launch| launch.address);
                    let address = address.map(|address| format!(" on {address}")).unwrap_or_default();
                    let (channel, own) = (&sender.channel, sender.pid());
                    log::info!("{channel}: ready{address}, worker {own}, {waiting} messages waiting");
                    if pid != own {
                        log::warn!("{channel}: worker {own} calls itself {pid}");
                    }
                }
                self.apply(Event::Ready { worker });
            }
            Report::Status(status) => {
                note.status = *status;
                self.apply(Event::Report { worker });
            }
            Report::Answer { id, answer } => {
                self.pass_answer(worker, id, answer);
                self.apply(Event::Report { worker });
            }
            Report::Contacts(contacts) => {
                let now = self.epoch.elapsed();
                for contact in &contacts {
                    let (may, lines) = note.audited.take(now);
                    if lines > 0 {
                        self.audit.write(&Entry::ContactsLeftOut { channel: &sender.channel, lines });
                    }
                    if may {
                        self.audit.write(&audit::contact(&sender.channel, contact));
                    }
                }
                self.apply(Event::Report { worker });
            }
            Report::CannotStart { reason } => {
                note.problem = Some(reason.clone());
                sender.reason = Some(reason);
                self.apply(Event::Report { worker });
            }
        }
    }

    /// Finds the dead: takes their slots back, reaps them, and lets the supervisor know.
    pub(super) fn reap(&mut self) {
        let dead: Vec<(WorkerId, Death)> = self
            .workers
            .iter()
            .filter_map(|(id, worker)| match worker.process.death() {
                Ok(death) => Some((*id, death?)),
                Err(e) => {
                    log::error!("{}: could not ask for worker {}: {e}", worker.channel, worker.pid());
                    None
                }
            })
            .collect();
        for (worker, death) in dead {
            self.bury(worker, death);
        }
        // Children that are none of ours come to a master that is process 1 of a container. A worker that dies between
        // the two is found by its number here; its slots are under its own owner number, which no other ever has.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            let found = self.workers.iter().find(|(_, worker)| worker.pid() == pid).map(|(id, _)| *id);
            if let Some(worker) = found {
                self.bury(worker, crate::spawn::death_of(status.exit_status(), status.terminating_signal()));
            }
        }
    }

    fn bury(&mut self, worker: WorkerId, death: Death) {
        self.last_words(worker);
        self.slots.reclaim(worker);
        let Some(dead) = self.workers.remove(&worker) else { return };
        let Worker { channel, process, reason, .. } = dead;
        let pid = process.pid();
        process.reap();
        self.drop_asks_of(worker);
        let actions = self.supervisor.handle(Event::Died { worker, death }, self.now());
        // What was counted as of this moment is no more.
        if let Some(note) = self.notes.get_mut(&channel) {
            note.status.connections = 0;
            note.status.slots_used = 0;
        }
        // Before the next one starts, so that the log tells it in order.
        self.log_death(&channel, pid, death, reason);
        self.carry_out(actions);
    }

    fn last_words(&mut self, worker: WorkerId) {
        loop {
            let link = self.workers.get_mut(&worker).and_then(|worker| worker.link.as_mut());
            match link.map(MasterEnd::read_ready) {
                Some(Ok(reports)) if !reports.is_empty() => {
                    reports.into_iter().for_each(|report| self.report(worker, report));
                }
                Some(Ok(_) | Err(_)) | None => return,
            }
        }
    }

    fn log_death(&mut self, channel: &str, pid: u32, death: Death, reason: Option<String>) {
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let next = self.supervisor.view(channel).map(|view| view.state);
        let ended = format!("worker {pid} ended: {death}{reason}");
        match next {
            Some(State::Backoff { until }) => {
                let wait = until.saturating_sub(self.now()).as_secs_f64();
                let line = format!("{channel}: {ended}; starting again in {wait:.1} s");
                if let Death::Crashed(_) = death {
                    log::error!("{line}")
                } else {
                    log::warn!("{line}")
                }
                let note = self.notes.entry(channel.to_owned()).or_default();
                note.problem = Some(ended);
            }
            Some(State::Disabled) => {
                log::error!("{channel}: {ended}; not started again. A reload tries again");
                let note = self.notes.entry(channel.to_owned()).or_default();
                note.problem = Some(ended);
            }
            Some(
                State::Unbound { .. }
                | State::Starting { .. }
                | State::Ready { .. }
                | State::Draining { .. }
                | State::Doomed { .. },
            )
            | None => match death {
                Death::Exited(0) => log::info!("{channel}: worker {pid} drained"),
                Death::Exited(_) | Death::Crashed(_) | Death::Killed | Death::Stopped => {
                    log::warn!("{channel}: {ended}");
                }
            },
        }
    }
}
