//! Carries out what the supervisor decides.

use super::Server;
use super::workers::Worker;
use crate::owner;
use crate::spawn::Process;
use crate::supervisor::{Action, Event, Why, WorkerId};
use link::{Death, Order, Start};
use std::io;
use std::time::Duration;

impl Server {
    /// One action; what comes of it at once is given back.
    pub(super) fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Listen { channel } => Some(self.listen(channel)),
            Action::Spawn { channel, worker, predecessor } => self.spawn(&channel, worker, predecessor),
            Action::Drain { worker, timeout } => {
                self.drain(worker, timeout);
                None
            }
            Action::Terminate { worker } => {
                self.with(worker, |worker| worker.process.terminate());
                None
            }
            Action::Kill { worker, why } => {
                self.kill(worker, why);
                None
            }
            Action::Undead { worker } => {
                self.with(worker, |worker| {
                    let (channel, pid) = (&worker.channel, worker.pid());
                    log::error!(
                        "{channel}: worker {pid} was killed and is still there: it hangs in the system"
                    );
                });
                None
            }
            Action::Forget { channel } => {
                self.notes.remove(&channel);
                None
            }
            Action::Load => {
                // Every outcome is in the log.
                let _ = self.reload(None);
                None
            }
            Action::Exit => {
                self.leave = true;
                None
            }
        }
    }

    fn listen(&mut self, channel: String) -> Event {
        let Some(launch) = self.wanted.launches.get(&channel) else {
            // Taken out meanwhile; the supervisor hears of that too.
            return Event::NotListening { channel };
        };
        let address = launch.address;
        let note = self.notes.entry(channel.clone()).or_default();
        match self.listeners.open(address) {
            Ok(()) => Event::Listening { channel },
            Err(e) => {
                let problem = format!("could not listen on {address}: {e}");
                // Once: the next tries are many.
                if note.problem.as_ref() != Some(&problem) {
                    log::error!("{channel}: {problem}; trying again");
                    note.problem = Some(problem);
                }
                Event::NotListening { channel }
            }
        }
    }

    fn spawn(&mut self, channel: &str, worker: WorkerId, predecessor: Option<Death>) -> Option<Event> {
        match self.try_spawn(channel, worker, predecessor) {
            Ok(started) => {
                log::info!("{channel}: worker {} started", started.pid());
                self.workers.insert(worker, started);
                None
            }
            Err(e) => {
                let problem = format!("could not start a worker: {e}");
                log::error!("{channel}: {problem}; trying again");
                self.notes.entry(channel.to_owned()).or_default().problem = Some(problem);
                Some(Event::NotSpawned { worker })
            }
        }
    }

    fn try_spawn(&self, channel: &str, worker: WorkerId, predecessor: Option<Death>) -> io::Result<Worker> {
        let launch = self.wanted.launches.get(channel).ok_or(io::ErrorKind::NotFound)?;
        // Everything that can fail comes before there is a process.
        let listener = self.listeners.for_worker(launch.address)?;
        let slots = self.slots.as_fd().try_clone_to_owned()?;
        let order = Order::Start(Start {
            settings: launch.settings.clone(),
            secrets: launch.secrets.clone(),
            files: launch.files.clone(),
            slot_owner: worker,
            journald: self.options.journald,
            log_level: self.options.worker_log.clone().unwrap_or_else(|| launch.log_level.to_owned()),
            predecessor,
        });
        let folder = self.wanted.config.service.state_path.join(channel);
        owner::prepare(&folder, &self.identity)?;
        let (process, mut link) = Process::start(channel, launch.address.port(), &self.identity)?;
        let sent = link.queue_with(&order, vec![listener, slots]).and_then(|()| link.write_ready());
        if let Err(e) = sent {
            process.kill();
            log::error!("{channel}: could not send worker {} its settings: {e}", process.pid());
        }
        Ok(Worker { channel: channel.to_owned(), process, link: Some(link), reason: None })
    }

    fn drain(&mut self, worker: WorkerId, timeout: Duration) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.with(worker, |worker| {
            log::info!("{}: worker {} drains", worker.channel, worker.pid());
            let order = Order::Drain { timeout_ms };
            let told = worker.link.as_mut().map(|link| link.queue(&order).and_then(|()| link.write_ready()));
            if !matches!(told, Some(Ok(_))) {
                worker.process.terminate();
            }
        });
    }

    fn kill(&mut self, worker: WorkerId, why: Why) {
        self.with(worker, |worker| {
            let (channel, pid) = (&worker.channel, worker.pid());
            match why {
                Why::Silent(_) if worker.link.is_none() => {
                    log::error!("{channel}: worker {pid} closed its link and stayed: killed");
                }
                Why::Silent(limit) => {
                    log::error!("{channel}: worker {pid} reported nothing for {} s: killed", limit.as_secs());
                }
                Why::Breach => log::error!("{channel}: worker {pid} broke the contract of its link: killed"),
                Why::Overdue => log::warn!("{channel}: worker {pid} did not drain in time: killed"),
                Why::AtOnce => log::warn!("{channel}: worker {pid} killed"),
            }
            worker.process.kill();
        });
    }

    fn with(&mut self, worker: WorkerId, act: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            act(worker);
        }
    }
}
