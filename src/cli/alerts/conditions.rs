//! PURE: when an alert is raised and when it is cleared. What was seen and the time go in, notices come out.
//!
//! Each alert is looked at for each of its subjects (a channel, a file system, a certificate, the server itself):
//!
//! ```text
//!            holds, within its hours ─▶ a notice
//!     Quiet ─────────────────────────────────────▶ Raised
//!       ◀─────────────────────────────────────────
//!            does not hold ─▶ a notice
//! ```
//!
//! What cannot be told (the server does not answer) changes nothing. Times are microseconds since 1970 that never jump
//! while the process lives; across a restart they are as good as the clock.

use super::surroundings::Surroundings;
use crate::cli::dashboard::health;
use crate::cli::output::{grouped, local_time, short_time, size};
use crate::cli::server::ServerStatus;
use config::{Alert, AlertWhen};
use master::control::ChannelStatus;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 24 * 60 * MINUTE;

/// A channel that was down is up again when it has been for so long: in a crash loop it is ready for a moment each time.
const SETTLED: i64 = 30 * SECOND;
/// A worker that is replaced at a reload is not down.
const REPLACED_MAX: i64 = 5 * SECOND;
/// An alert about the disk is cleared when there is a twentieth more than its limit, not at the first byte.
const DISK_MARGIN: u64 = 20;

/// What an alert without `limit` means.
fn limit_of(alert: &Alert) -> u64 {
    let default = match alert.when {
        AlertWhen::Silent => 60,
        AlertWhen::Waiting => 15,
        AlertWhen::Failed => 1,
        AlertWhen::Refused => 10,
        AlertWhen::Down => 1,
        AlertWhen::Disk => 1 << 30,
        AlertWhen::Certificate => 30,
    };
    let limit = alert.limit.unwrap_or(default);
    match alert.when {
        // Nought failures or refusals are what a good day has.
        AlertWhen::Failed | AlertWhen::Refused => limit.max(1),
        _ => limit,
    }
}

/// What somebody is told, once when it is raised and once when it is cleared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Notice {
    pub(super) alert: String,
    pub(super) when: String,
    pub(super) state: Change,
    /// Where the subject is a channel, or belongs to one.
    pub(super) channel: Option<String>,
    /// A channel, a path; empty for the server.
    pub(super) subject: String,
    /// One line for people.
    pub(super) message: String,
    /// When it was raised.
    pub(super) since_us: i64,
    /// When this happened.
    pub(super) at_us: i64,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    Raised,
    Cleared,
}

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Raised {
    pub(super) alert: String,
    pub(super) subject: String,
    pub(super) message: String,
    pub(super) since_us: i64,
}

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) us: i64,
    /// Since local midnight.
    pub(super) second_of_day: u32,
}

/// What is looked at.
pub(super) struct Seen<'a> {
    /// The channels as the server tells them, or why it does not.
    pub(super) server: Result<&'a ServerStatus, &'a str>,
    /// `None` before the first look.
    pub(super) surroundings: Option<&'a Surroundings>,
}

/// What is remembered from look to look; `Serialize` for what survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Watch {
    pub(super) raised: Vec<Raised>,
    /// By channel: messages received, and when the last of them was seen to have come.
    last_message: BTreeMap<String, (u64, i64)>,
    /// By channel: refusals counted, over the last minute.
    #[serde(skip)]
    refusals: BTreeMap<String, VecDeque<(i64, u64)>>,
    /// By channel, "" for the server.
    #[serde(skip)]
    down: BTreeMap<String, Down>,
}

#[derive(Clone, Debug, PartialEq)]
struct Down {
    since: i64,
    /// Since when it is up; not for long.
    up_since: Option<i64>,
    why: String,
}

/// What a condition says of one subject.
enum Verdict {
    Holds(String),
    Not(String),
    /// Between the two, or nobody can tell: as it was.
    AsBefore,
}

/// A subject of an alert, with its verdict.
struct Found {
    subject: String,
    channel: Option<String>,
    verdict: Verdict,
}

impl Watch {
    /// Looks once; what is to be told comes back, in order.
    pub(super) fn look(&mut self, alerts: &[Alert], seen: &Seen<'_>, now: Moment) -> Vec<Notice> {
        self.follow(seen, now.us);
        let mut notices = Vec::new();
        for alert in alerts {
            let found = self.verdicts(alert, seen, now);
            let known = match alert.when {
                AlertWhen::Disk | AlertWhen::Certificate => seen.surroundings.is_some(),
                _ => seen.server.is_ok(),
            };
            let gone: Vec<String> = self
                .raised
                .iter()
                .filter(|r| r.alert == alert.name && !found.iter().any(|f| f.subject == r.subject))
                .map(|r| r.subject.clone())
                .collect();
            for found in found {
                self.conclude(alert, found, now, &mut notices);
            }
            for subject in gone.into_iter().filter(|_| known) {
                let verdict = Verdict::Not("no longer watched".to_owned());
                self.conclude(alert, Found { subject, channel: None, verdict }, now, &mut notices);
            }
        }
        // An alert that was taken out of the file has nobody to tell.
        self.raised.retain(|raised| alerts.iter().any(|alert| alert.name == raised.alert));
        notices
    }

    /// What a restart must not forget.
    pub(super) fn lasting(&self) -> Watch {
        let (raised, last_message) = (self.raised.clone(), self.last_message.clone());
        Watch { raised, last_message, ..Watch::default() }
    }

    fn conclude(&mut self, alert: &Alert, found: Found, now: Moment, notices: &mut Vec<Notice>) {
        let at = self.raised.iter().position(|r| r.alert == alert.name && r.subject == found.subject);
        let (state, message, since_us) = match (found.verdict, at) {
            (Verdict::Holds(message), None) if within(alert.hours, now.second_of_day) => {
                let (alert, subject) = (alert.name.clone(), found.subject.clone());
                self.raised.push(Raised { alert, subject, message: message.clone(), since_us: now.us });
                (Change::Raised, message, now.us)
            }
            (Verdict::Not(message), Some(at)) => (Change::Cleared, message, self.raised.remove(at).since_us),
            (Verdict::Holds(_) | Verdict::Not(_) | Verdict::AsBefore, _) => return,
        };
        notices.push(Notice {
            alert: alert.name.clone(),
            when: word(alert.when).to_owned(),
            state,
            channel: found.channel,
            subject: found.subject,
            message,
            since_us,
            at_us: now.us,
        });
    }

    /// Takes in what has changed since the last look.
    fn follow(&mut self, seen: &Seen<'_>, now: i64) {
        let status = match seen.server {
            Ok(status) => status,
            Err(why) => return self.note_down("", Some(why.to_owned()), now),
        };
        self.note_down("", None, now);
        for channel in &status.channels {
            let count = channel.status.received;
            let last = self.last_message.entry(channel.name.clone()).or_insert((count, now));
            if last.0 != count {
                // A new worker begins at nought, which is no message.
                *last = (count, if count == 0 { last.1 } else { now });
            }
            let total = channel.status.refused.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
            let refusals = self.refusals.entry(channel.name.clone()).or_default();
            if refusals.back().is_some_and(|(_, last)| total < *last) {
                refusals.clear();
            }
            // Of what came before the minute the newest is kept: it is what the minute is counted from.
            while refusals.get(1).is_some_and(|(at, _)| now - at >= MINUTE) {
                refusals.pop_front();
            }
            refusals.push_back((now, total));
            self.note_down(&channel.name, health::trouble(channel), now);
        }
        let is_there = |name: &String| status.channels.iter().any(|channel| channel.name == *name);
        self.last_message.retain(|name, _| is_there(name));
        self.refusals.retain(|name, _| is_there(name));
        self.down.retain(|name, _| name.is_empty() || is_there(name));
    }

    fn note_down(&mut self, name: &str, trouble: Option<String>, now: i64) {
        match (trouble, self.down.get_mut(name)) {
            (Some(why), Some(down)) => (down.up_since, down.why) = (None, why),
            (Some(why), None) => {
                self.down.insert(name.to_owned(), Down { since: now, up_since: None, why });
            }
            (None, Some(down)) => {
                if now - *down.up_since.get_or_insert(now) >= SETTLED {
                    self.down.remove(name);
                }
            }
            (None, None) => {}
        }
    }

    fn verdicts(&self, alert: &Alert, seen: &Seen<'_>, now: Moment) -> Vec<Found> {
        let limit = limit_of(alert);
        let is_meant = |name: &str| alert.channels.is_empty() || alert.channels.iter().any(|c| c == name);
        match alert.when {
            AlertWhen::Disk => {
                let disks = seen.surroundings.into_iter().flat_map(|surroundings| &surroundings.disks);
                let meant = |channels: &[String]| channels.is_empty() || channels.iter().any(|c| is_meant(c));
                let disks = disks.filter(|disk| meant(&disk.channels));
                return disks
                    .map(|disk| Found {
                        subject: disk.path.display().to_string(),
                        channel: None,
                        verdict: room(&disk.path.display().to_string(), &disk.free_bytes, limit),
                    })
                    .collect();
            }
            AlertWhen::Certificate => {
                let certificates = seen.surroundings.into_iter().flat_map(|found| &found.certificates);
                let certificates = certificates.filter(|certificate| is_meant(&certificate.channel));
                return certificates
                    .map(|certificate| Found {
                        subject: certificate.path.display().to_string(),
                        channel: Some(certificate.channel.clone()),
                        verdict: validity(certificate, limit, now.us),
                    })
                    .collect();
            }
            AlertWhen::Silent
            | AlertWhen::Waiting
            | AlertWhen::Failed
            | AlertWhen::Refused
            | AlertWhen::Down => {}
        }
        let mut found = Vec::new();
        if alert.when == AlertWhen::Down {
            found.push(Found {
                subject: String::new(),
                channel: None,
                verdict: self.downtime("", limit, now.us),
            });
        }
        let channels = seen.server.map(|status| status.channels.as_slice()).unwrap_or_default();
        for channel in channels.iter().filter(|channel| is_meant(&channel.name)) {
            let verdict = if health::is_enabled(channel) {
                self.of_channel(alert, channel, limit, now)
            } else {
                Verdict::Not(format!("{}: not enabled", channel.name))
            };
            let name = channel.name.clone();
            found.push(Found { subject: name.clone(), channel: Some(name), verdict });
        }
        found
    }

    fn of_channel(&self, alert: &Alert, channel: &ChannelStatus, limit: u64, now: Moment) -> Verdict {
        let name = &channel.name;
        match alert.when {
            AlertWhen::Silent => self.silence(alert, name, limit, now),
            AlertWhen::Waiting => {
                let (status, seconds) = (&channel.status, channel.status.oldest_waiting_seconds);
                if status.waiting > 0 && seconds > limit as f64 * 60.0 {
                    let age = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                    let (waiting, age) = (messages(status.waiting), short_time(age));
                    return Verdict::Holds(format!("{name}: {waiting} waiting, the oldest for {age}"));
                }
                Verdict::Not(format!("{name}: no message waits longer than {limit} min"))
            }
            AlertWhen::Failed => match channel.status.failed_now {
                count if count >= limit => Verdict::Holds(format!("{name}: {} failed", messages(count))),
                count => Verdict::Not(format!("{name}: {} failed", messages(count))),
            },
            AlertWhen::Refused => {
                let window = self.refusals.get(name);
                let ends = window.and_then(|window| Some((window.front()?.1, window.back()?.1)));
                let count = ends.map_or(0, |(first, last)| last.saturating_sub(first));
                let text = format!("{name}: {} refused within a minute", messages(count));
                if count >= limit { Verdict::Holds(text) } else { Verdict::Not(text) }
            }
            AlertWhen::Down => self.downtime(name, limit, now.us),
            AlertWhen::Disk | AlertWhen::Certificate => Verdict::AsBefore,
        }
    }

    /// Silence counts within the alert's hours only: at eight in the morning nobody misses the messages of the night.
    fn silence(&self, alert: &Alert, name: &str, limit: u64, now: Moment) -> Verdict {
        let Some((_, last)) = self.last_message.get(name) else { return Verdict::AsBefore };
        let opened = alert.hours.map_or(*last, |(from, _)| {
            let open_for = (now.second_of_day + 86_400 - u32::from(from) * 60) % 86_400;
            now.us - i64::from(open_for) * SECOND
        });
        let quiet_for = now.us - (*last).max(opened);
        if quiet_for >= minutes(limit) {
            return Verdict::Holds(format!("{name}: no message since {}", local_time(*last)));
        }
        // At the opening of the next day's hours the silence of the day before is not over.
        if now.us - *last >= minutes(limit) {
            return Verdict::AsBefore;
        }
        Verdict::Not(format!("{name}: messages come again"))
    }

    fn downtime(&self, name: &str, limit: u64, now: i64) -> Verdict {
        let of = |text: &str| if name.is_empty() { text.to_owned() } else { format!("{name}: {text}") };
        match self.down.get(name) {
            None => Verdict::Not(of(if name.is_empty() { "the server answers again" } else { "up again" })),
            Some(Down { since, up_since: None, why }) if now - since >= minutes(limit).max(REPLACED_MAX) => {
                let age = short_time(Duration::from_micros(u64::try_from(now - since).unwrap_or(0)));
                Verdict::Holds(of(&format!("down for {age}: {why}")))
            }
            Some(_) => Verdict::AsBefore,
        }
    }
}

fn room(path: &str, free_bytes: &Result<u64, String>, limit: u64) -> Verdict {
    match free_bytes {
        // Not to know is no reason to be quiet.
        Err(why) => Verdict::Holds(format!("{path}: could not tell how much room there is: {why}")),
        Ok(free) if *free < limit => Verdict::Holds(format!("{path}: {} free", size(*free))),
        Ok(free) if *free >= limit.saturating_add(limit / DISK_MARGIN) => {
            Verdict::Not(format!("{path}: {} free", size(*free)))
        }
        Ok(_) => Verdict::AsBefore,
    }
}

fn validity(certificate: &super::surroundings::Certificate, limit: u64, now: i64) -> Verdict {
    let what = format!("{}: certificate \"{}\"", certificate.channel, certificate.path.display());
    match &certificate.ends_us {
        Err(why) => Verdict::Holds(format!("{what} could not be read: {why}")),
        Ok(ends) if *ends <= now => Verdict::Holds(format!("{what} ended {}", local_time(*ends))),
        Ok(ends) if ends - now < i64::try_from(limit).unwrap_or(i64::MAX).saturating_mul(DAY) => {
            Verdict::Holds(format!("{what} ends {}, in {} days", local_time(*ends), (ends - now) / DAY))
        }
        Ok(ends) => Verdict::Not(format!("{what} is good until {}", local_time(*ends))),
    }
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{} messages", grouped(count)) }
}

fn minutes(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_mul(MINUTE)
}

fn within(hours: Option<(u16, u16)>, second_of_day: u32) -> bool {
    let minute = second_of_day / 60;
    hours.is_none_or(|(from, to)| {
        let (from, to) = (u32::from(from), u32::from(to));
        if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    })
}

/// The word of the configuration file.
pub(super) fn word(when: AlertWhen) -> &'static str {
    match when {
        AlertWhen::Silent => "silent",
        AlertWhen::Waiting => "waiting",
        AlertWhen::Failed => "failed",
        AlertWhen::Refused => "refused",
        AlertWhen::Down => "down",
        AlertWhen::Disk => "disk",
        AlertWhen::Certificate => "certificate",
    }
}

#[cfg(test)]
mod tests;
