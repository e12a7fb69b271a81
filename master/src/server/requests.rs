//! Answers the control socket; loads the file again.

use super::{Server, now_us};
use crate::audit::{Audit, Caller, Entry, Messages};
use crate::control::{
    ChangeAction, ChannelChange, ChannelState, ChannelStatus, ConnectionId, Request, Response, ServerStatus,
};
use crate::lock::{LockFault, StateLock};
use crate::spawn;
use crate::status;
use crate::supervisor::{Change, Event, State, Supervisor, WorkerId};
use crate::wanted::Wanted;
use link::{Answer, Order, Question, Selection};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A worker answers from memory and small files; one that takes longer is not going to.
const ASK_MAX: Duration = Duration::from_secs(10);
/// Questions on their way to all workers.
const ASKS_MAX: usize = 64;

/// A question on its way through a worker.
#[derive(Debug)]
pub(super) struct Ask {
    connection: ConnectionId,
    worker: WorkerId,
    channel: String,
    until: Duration,
    /// What it changes, where it does.
    order: Option<&'static str>,
}

/// What an order to a worker is called in the audit, and which messages it is for.
fn order_of(question: &Question) -> Option<(&'static str, &Selection)> {
    match question {
        Question::Retry(selection) => Some(("retry", selection)),
        Question::Discard(selection) => Some(("discard", selection)),
        Question::Queue { .. } | Question::Peers => None,
        #[cfg(debug_assertions)]
        Question::Takeover(_) => None,
    }
}

impl Server {
    pub(super) fn answer(&mut self, connection: ConnectionId, request: Request) {
        let response = match request {
            Request::Status { channel } => self.status(channel.as_deref()),
            Request::Reload if self.supervisor.is_stopping() => {
                Response::Error("the server is stopping".to_owned())
            }
            Request::Reload => {
                let caller = self.control.peer(connection).map(|(pid, uid)| Caller::of(pid, uid));
                self.reload(caller.as_ref())
            }
            Request::Ask { channel, question } => match self.ask(connection, channel, question) {
                Ok(()) => return,
                Err(reason) => Response::Error(reason),
            },
        };
        self.control.respond(connection, &response, self.now());
    }

    fn ask(&mut self, connection: ConnectionId, channel: String, question: Question) -> Result<(), String> {
        let worker = match self.supervisor.view(&channel).map(|view| view.state) {
            Some(State::Ready { worker, .. }) => worker,
            Some(state) => return Err(format!("{channel}: its worker is {}", status::shown(state))),
            None => return Err(format!("no channel \"{}\" runs", channel.escape_debug())),
        };
        if self.asks.len() >= ASKS_MAX {
            return Err("too many questions at the same time".to_owned());
        }
        let link = self.workers.get_mut(&worker).and_then(|worker| worker.link.as_mut());
        let link = link.ok_or_else(|| format!("{channel}: its worker is about to end"))?;
        self.last_ask += 1;
        let number = self.last_ask;
        let order = order_of(&question);
        if let Some((order, selection)) = order {
            let (pid, uid) = self.control.peer(connection).ok_or("the connection is gone")?;
            let (by, messages) = (&Caller::of(pid, uid), Messages::of(selection));
            self.audit.write(&Entry::Ordered { by, order, channel: &channel, number, messages });
        }
        let order = order.map(|(order, _)| order);
        link.queue(&Order::Ask { id: self.last_ask, question })
            .and_then(|()| link.write_ready())
            .map_err(|e| format!("{channel}: its worker cannot be asked: {e}"))?;
        let until = self.epoch.elapsed() + ASK_MAX;
        self.asks.insert(self.last_ask, Ask { connection, worker, channel, until, order });
        Ok(())
    }

    /// Only the worker that was asked may answer.
    pub(super) fn pass_answer(&mut self, worker: WorkerId, id: u64, answer: Answer) {
        if self.asks.get(&id).is_some_and(|ask| ask.worker == worker)
            && let Some(ask) = self.asks.remove(&id)
        {
            let now = self.now();
            if let Some(order) = ask.order {
                let outcome = match &answer {
                    Answer::Changed { count, problems } => {
                        format!("{count} done, {} problems", problems.len())
                    }
                    Answer::Error(reason) => reason.clone(),
                    other => format!("answered something else: {other:?}"),
                };
                self.audit.write(&Entry::Carried {
                    order,
                    channel: &ask.channel,
                    number: id,
                    outcome: &outcome,
                });
            }
            self.control.respond(ask.connection, &Response::Answer(answer), now);
        }
    }

    pub(super) fn drop_asks_of(&mut self, worker: WorkerId) {
        self.fail_asks(|ask| ask.worker == worker, "its worker ended before it answered");
    }

    pub(super) fn give_up_asks(&mut self) {
        let now = self.now();
        self.fail_asks(|ask| now >= ask.until, "its worker did not answer in time");
    }

    pub(super) fn ask_deadline(&self) -> Option<Duration> {
        self.asks.values().map(|ask| ask.until).min()
    }

    fn fail_asks(&mut self, which: impl Fn(&Ask) -> bool, why: &str) {
        let now = self.now();
        let failed: Vec<u64> = self.asks.iter().filter(|(_, ask)| which(ask)).map(|(id, _)| *id).collect();
        for (number, ask) in failed.into_iter().filter_map(|id| Some((id, self.asks.remove(&id)?))) {
            if let Some(order) = ask.order {
                self.audit.write(&Entry::Carried { order, channel: &ask.channel, number, outcome: why });
            }
            let response = Response::Error(format!("{}: {why}", ask.channel));
            self.control.respond(ask.connection, &response, now);
        }
    }

    /// Loads the file whole; any error, and everything stays as it is.
    pub(super) fn reload(&mut self, by: Option<&Caller>) -> Response {
        self.notify.reloading();
        let response = match self.try_reload() {
            Ok((changes, warnings)) => Response::Reloaded { changes, warnings },
            Err(problems) => {
                problems.iter().for_each(|problem| log::error!("{problem}"));
                log::error!("not reloaded: {} errors; everything runs as before", problems.len());
                Response::Refused { problems }
            }
        };
        self.notify.ready();
        let outcome = match &response {
            Response::Refused { problems } => format!("refused: {} errors", problems.len()),
            _ => "in force".to_owned(),
        };
        self.audit.write(&Entry::Reload { by, outcome: &outcome });
        response
    }

    fn try_reload(&mut self) -> Result<(Vec<ChannelChange>, Vec<String>), Vec<String>> {
        let wanted = Wanted::load(&self.options.config_path, self.options.check_tls)?;
        if !wanted.unusable.is_empty() {
            let lines = wanted.unusable.iter().flat_map(|(channel, problems)| {
                problems.iter().map(move |problem| format!("{channel}: {problem}"))
            });
            return Err(lines.collect());
        }
        let (old, new) = (&self.wanted.config.service, &wanted.config.service);
        let identity =
            spawn::identity(new.user.as_deref(), new.group.as_deref()).map_err(|problem| vec![problem])?;
        let lock = if old.state_path == new.state_path {
            None
        } else {
            let path = new.state_path.display();
            Some(StateLock::take(&new.state_path).map_err(|fault| match fault {
                LockFault::Held => vec![format!("state_path \"{path}\" is in use by another hl7server")],
                LockFault::Io(e) => vec![format!("could not lock state_path \"{path}\": {e}")],
            })?)
        };
        if old.runtime_path != new.runtime_path {
            self.control.move_to(&new.runtime_path).map_err(|fault| vec![fault.to_string()])?;
        }
        // Nothing fails from here on.
        wanted.follow_log(self.options.follow_log);
        if let Some(lock) = lock {
            self.lock = lock;
            self.audit = Audit::below(&wanted.config.service.state_path);
        }
        let mut changes = wanted.changes_from(Some(&self.wanted));
        if identity != self.identity {
            self.identity = identity;
            for (_, change) in changes.iter_mut().filter(|(_, change)| *change == Change::Keep) {
                *change = Change::Replace;
            }
        }
        let mut shown: Vec<_> = changes.iter().map(|(channel, what)| shown_change(channel, *what)).collect();
        let renewed = self.renewed(&wanted, &changes);
        for change in shown.iter_mut().filter(|change| renewed.contains(&change.channel)) {
            change.action = ChangeAction::Renew;
        }
        let count = |what| changes.iter().filter(|(_, change)| *change == what).count();
        log::info!(
            "reloaded{}: {} channels started, {} replaced, {} stopped, {} kept",
            version_of(&wanted),
            count(Change::Start),
            count(Change::Replace),
            count(Change::Stop),
            count(Change::Keep)
        );
        let warnings = wanted.warnings.clone();
        self.wanted = wanted;
        self.put_in_force(changes);
        renewed.iter().for_each(|channel| self.hand_files(channel));
        Ok((shown, warnings))
    }

    /// Channels that keep their workers and whose files have other contents now.
    fn renewed(&self, wanted: &Wanted, changes: &[(String, Change)]) -> BTreeSet<String> {
        let kept = changes.iter().filter(|(_, change)| *change == Change::Keep).map(|(channel, _)| channel);
        let files = |wanted: &Wanted, channel: &str| wanted.launches.get(channel).map(|l| l.files.clone());
        kept.filter(|channel| files(&self.wanted, channel) != files(wanted, channel)).cloned().collect()
    }

    /// Gives a channel's worker its files anew. One that is not there, or cannot be reached, is followed by one that
    /// starts with them.
    fn hand_files(&mut self, channel: &str) {
        let Some(launch) = self.wanted.launches.get(channel) else { return };
        let order = Order::Files(launch.files.clone());
        let worker = self.supervisor.view(channel).and_then(|view| view.state.worker());
        let Some(worker) = worker.and_then(|worker| self.workers.get_mut(&worker)) else { return };
        let sent = worker.link.as_mut().map(|link| link.queue(&order).and_then(|()| link.write_ready()));
        match sent {
            Some(Ok(_)) => log::info!("{channel}: worker {} has its certificates anew", worker.pid()),
            Some(Err(e)) => {
                log::error!("{channel}: could not send worker {} its certificates: {e}", worker.pid());
            }
            None => {}
        }
    }

    /// Makes what `self.wanted` says true: listeners, slots, workers.
    pub(super) fn put_in_force(&mut self, changes: Vec<(String, Change)>) {
        for warning in &self.wanted.warnings {
            log::warn!("{warning}");
        }
        let service = &self.wanted.config.service;
        self.slots.set_limit(service.max_tasks);
        let addresses: BTreeSet<_> = self.wanted.launches.values().map(|launch| launch.address).collect();
        self.listeners.keep_only(|address| addresses.contains(address));
        for address in addresses {
            // Connections wait from now on, while an old worker drains. What cannot be bound is told when its worker is
            // to start.
            let _ = self.listeners.open(address);
        }
        let stop_timeout = service.stop_timeout;
        self.apply(Event::Reload { changes, stop_timeout });
        let known = |name: &str| self.wanted.config.channel(name).is_some();
        self.left_behind = status::left_behind(&self.wanted.config.service.state_path, known);
        for channel in &self.left_behind {
            log::warn!("{channel}: not in the configuration, but its journal is still there");
        }
    }

    pub(super) fn log_status(&self) {
        let now = now_us();
        for channel in self.channels() {
            log::info!("{}", status::log_line(&channel, now));
        }
    }

    fn status(&self, only: Option<&str>) -> Response {
        let mut channels = self.channels();
        if let Some(only) = only {
            channels.retain(|channel| channel.name == only);
            if channels.is_empty() {
                return Response::Error(format!("no channel \"{}\"", only.escape_debug()));
            }
        }
        Response::Status(ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_version: self.wanted.config.service.config_version.clone(),
            pid: std::process::id(),
            started_us: self.started_us,
            channels,
        })
    }

    /// Every channel: of the file, then those that are being stopped, then those that only left a journal.
    fn channels(&self) -> Vec<ChannelStatus> {
        let config = &self.wanted.config;
        let mut shown: Vec<ChannelStatus> = config
            .channels
            .iter()
            .map(|channel| self.channel(&channel.name, channel.port, channel.listen))
            .collect();
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let stopping = self.supervisor.channels().map(|(name, _)| name);
        let stopping = stopping.filter(|name| config.channel(name).is_none());
        let left = self.left_behind.iter().map(String::as_str);
        let left = left.filter(|name| self.supervisor.view(name).is_none());
        shown.extend(stopping.chain(left).map(|name| self.channel(name, 0, nowhere)));
        shown
    }

    fn channel(&self, name: &str, port: u16, listen: IpAddr) -> ChannelStatus {
        let view = self.supervisor.view(name);
        let note = self.notes.get(name);
        let worker = view.and_then(|view| self.workers.get(&view.state.worker()?));
        let (state, problem) = match view {
            Some(view) => (status::shown(view.state), note.and_then(|note| note.problem.clone())),
            None if self.wanted.unusable.contains_key(name) => {
                (ChannelState::Disabled, self.wanted.unusable[name].first().cloned())
            }
            None if self.wanted.config.channel(name).is_some() => (ChannelState::Off, None),
            None => {
                let path = self.wanted.config.service.state_path.join(name).join("journal");
                let problem =
                    format!("not in the configuration; its journal stays in \"{}\"", path.display());
                (ChannelState::Removed, Some(problem))
            }
        };
        let age = view.map_or(self.now(), |view| self.now().saturating_sub(view.since));
        let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        ChannelStatus {
            name: name.to_owned(),
            port,
            listen,
            pid: worker.map(super::Worker::pid),
            state,
            since_us: now_us().saturating_sub(age_us),
            restarts: view.map_or(0, |view| view.restarts),
            problem,
            status: note.map(|note| note.status.clone()).unwrap_or_default(),
        }
    }
}

fn shown_change(channel: &str, change: Change) -> ChannelChange {
    let action = match change {
        Change::Start => ChangeAction::Start,
        Change::Stop => ChangeAction::Stop,
        Change::Replace => ChangeAction::Replace,
        Change::Keep => ChangeAction::Keep,
    };
    ChannelChange { channel: channel.to_owned(), action }
}

/// `, configuration version "7.7"`, where the file has one.
pub(super) fn version_of(wanted: &Wanted) -> String {
    let version = wanted.config.service.config_version.as_ref();
    version.map(|version| format!(", configuration version \"{version}\"")).unwrap_or_default()
}

/// The line for systemd.
pub(super) fn summary(supervisor: &Supervisor) -> String {
    let ready = supervisor.channels().filter(|(_, state)| matches!(state, State::Ready { .. })).count();
    format!("{ready} of {} channels ready", supervisor.channels().count())
}
