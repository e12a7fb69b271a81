//! How a message ends: done, failed and listed, given back to its sender, or waiting on; and what the log says of it.

use super::{Delivery, Label, Worked};
use crate::committer::{Outcomes, Returned};
use crate::dispatcher::{Decision, FailedStep, Wait, Whose};
use crate::extract::Metadata;
use crate::failed::{FailedMessage, Failure};
use crate::find_index::Outcome;
use crate::flags;
use crate::plan::StepSet;
use crate::step::stamp::Marked;
use config::AckMode;
use hl7::ack::Refusal;
use hl7::message::Message;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl Delivery {
    /// Steps are left, or others still work on it.
    pub(super) fn goes_on(
        &self,
        worked: &Worked,
        over: StepSet,
        decisions: &[Decision],
        outcomes: &mut Outcomes,
        now_us: i64,
    ) {
        outcomes.steps.extend(over.places().map(|p| (worked.task.id, p)));
        self.log_waits(worked, decisions, now_us);
        for decision in decisions {
            if let Decision::Waits(wait) = decision {
                self.sandbox.watch.after_fault();
                self.counters.again(usize::from(wait.place));
                outcomes.waits.push((worked.task.id, wait.clone()));
            }
        }
        if worked.task.strikes > 0 {
            outcomes.strikes.push((worked.task.id, worked.task.strikes));
        }
    }

    /// Nothing is left.
    pub(super) fn done(&self, worked: &Worked, outcomes: &mut Outcomes, now_us: i64) {
        outcomes.done.push(worked.task.id);
        let wait = Duration::from_micros((now_us - worked.task.received_us).max(0) as u64);
        self.counters.done(std::iter::once(wait));
        self.log_end(worked, "done", now_us);
    }

    /// It failed, and nobody else works on it: it is listed, or given back to its sender. Where not even that could be
    /// done it goes on waiting.
    pub(super) fn put_away(
        &self,
        worked: &Worked,
        failed: &FailedStep,
        left: StepSet,
        outcomes: &mut Outcomes,
        now_us: i64,
    ) -> Outcome {
        let id = worked.task.id;
        if self.sandbox.watch.look() {
            // What failed here need not fail there.
            let decisions = self.stays(worked, left, now_us, "a fresh worker takes over");
            self.dispatcher.reopen(worked.task.ticket, decisions);
            return Outcome::Waiting;
        }
        let outcome = if self.is_ours(worked) { Outcome::Failed } else { Outcome::Returned };
        if outcome == Outcome::Returned {
            outcomes.returned.push(self.give_back(worked, failed, left, now_us));
        } else if let Err(error) = self.fail(worked, failed, left, now_us) {
            log::error!("id={id} could not be put into the failed folder: {}", crate::files::plain(&error));
            let decisions = self.stays(worked, left, now_us, "the failed folder could not be written");
            self.dispatcher.reopen(worked.task.ticket, decisions);
            return Outcome::Waiting;
        } else {
            outcomes.failed.push((id, failed.step.clone()));
        }
        outcomes.gone.extend(self.dispatcher.remove(worked.task.ticket));
        outcome
    }

    /// Whether a message that fails is listed here, whatever its sender does: it was told AA, or a person took it over.
    fn is_ours(&self, worked: &Worked) -> bool {
        match &worked.received {
            Some(received) => flags::is_ours(received.flags),
            None => self.settings.channel.ack == AckMode::Received,
        }
    }

    /// `ack: processed`: the sender keeps a message that could not be processed.
    fn give_back(&self, worked: &Worked, failed: &FailedStep, pending: StepSet, now_us: i64) -> Returned {
        let FailedStep { step, reason, .. } = failed;
        let (id, control_id, kind) = (worked.task.id, &worked.label.control_id, &worked.label.message_type);
        self.counters.failed(step);
        log::warn!(
            message_id = id.to_string().as_str(), control_id = control_id.as_str(), step = step.as_str();
            "id={id} control_id={control_id:?} type={kind} bytes={} outcome=returned step={step} wait={:.3}: {reason}; \
             its sender keeps it",
            worked.label.bytes,
            seconds(now_us - worked.task.received_us),
        );
        let refusal = match failed.whose {
            Whose::Message => &Refusal::REQUIRED_FIELD_MISSING,
            Whose::Target => &Refusal::INTERNAL,
            Whose::Ours => &Refusal::PROCESSING_FAILED,
        };
        Returned { id, location: worked.task.location, pending, refusal }
    }

    /// Puts a message into the failed folder.
    fn fail(&self, worked: &Worked, failed: &FailedStep, left: StepSet, now_us: i64) -> std::io::Result<()> {
        let FailedStep { step, reason, attempts, .. } = failed;
        let id = worked.task.id;
        // What cannot be read back stays with the journal as a damaged record; the reason says so.
        let received = self.reader.read(worked.task.location).ok();
        let workflow = flags::workflow(received.as_ref().map_or(0, |r| r.flags));
        let done = self.plan.steps_of(workflow).without(left);
        let steps_done = done.places().map(|p| self.plan.name(p).to_owned()).collect();
        let failure = Failure { step, reason, attempts: *attempts, steps_done };
        let message = FailedMessage::of(&self.settings.channel, id, received.as_ref(), failure);
        self.failed.keep(id, &message, &received.map(|r| r.body).unwrap_or_default())?;
        self.counters.failed(step);
        let (control_id, kind) = (&worked.label.control_id, &worked.label.message_type);
        log::error!(
            message_id = id.to_string().as_str(), control_id = control_id.as_str(), step = step.as_str();
            "id={id} control_id={control_id:?} type={kind} bytes={} outcome=failed step={step} \
             attempts={attempts} wait={:.3}: {reason}",
            worked.label.bytes,
            seconds(now_us - worked.task.received_us),
        );
        Ok(())
    }

    /// It is not put away after all (the disk of the failed folder is full, too): it stays in the queue as it is.
    fn stays(&self, worked: &Worked, left: StepSet, now_us: i64, why: &str) -> Vec<Decision> {
        let attempt = worked.task.attempts + 1;
        let until_us = now_us + crate::retry::wait_us(&self.settings.channel.retry, attempt, 0);
        let wait = |place: usize| {
            Decision::Waits(Wait {
                place: place as u8,
                attempt,
                until_us,
                since_us: now_us,
                reason: why.into(),
                target_down: false,
            })
        };
        left.places().map(wait).collect()
    }

    fn log_end(&self, worked: &Worked, outcome: &str, now_us: i64) {
        let id = worked.task.id;
        let Label { control_id, message_type, bytes } = &worked.label;
        log::info!(
            message_id = id.to_string().as_str(), control_id = control_id.as_str();
            "id={id} control_id={control_id:?} type={message_type} bytes={bytes} outcome={outcome} \
             attempts={} wait={:.3} steps={:.3}",
            worked.task.attempts + 1,
            seconds(worked.began_us - worked.task.received_us),
            seconds(now_us - worked.began_us),
        );
    }

    fn log_waits(&self, worked: &Worked, decisions: &[Decision], now_us: i64) {
        let id = worked.task.id;
        for decision in decisions {
            let Decision::Waits(wait) = decision else { continue };
            let step = self.plan.name(usize::from(wait.place));
            log::warn!(
                message_id = id.to_string().as_str(), step = step;
                "id={id} {step}: {}; trying again in {:.0} s (attempt {})",
                wait.reason,
                seconds(wait.until_us - now_us).max(0.0),
                wait.attempt,
            );
        }
    }

    pub(super) fn log_stamps(&self, id: journal::MessageId, marked: &Marked) {
        for reason in &marked.unstamped {
            self.counters.unstamped.fetch_add(1, Relaxed);
            log::warn!("id={id} an attachment is delivered without its stamp: {reason}");
        }
        for note in &marked.notes {
            log::info!("id={id} {note}");
        }
    }

    pub(super) fn debug_message(&self, id: journal::MessageId, message: &Message<'_>, undecodable: usize) {
        let channel = &self.settings.channel;
        if undecodable > 0 {
            let name = channel.encoding.name();
            log::warn!("id={id} has {undecodable} bytes that are not {name}; they read as U+FFFD");
        }
        if channel.debug_message {
            for segment in message.segments() {
                log::info!("id={id} {}", segment.raw);
            }
        }
        if channel.debug_values {
            for (path, value) in message.walk() {
                log::info!("id={id} {path} {value}");
            }
        }
    }

    pub(super) fn debug_metadata(&self, id: journal::MessageId, metadata: &Metadata) {
        if self.settings.channel.debug_metadata {
            for (name, value) in metadata.iter() {
                log::info!("id={id} {name}={:?}", value.unwrap_or("(nothing)"));
            }
        }
    }
}

fn seconds(us: i64) -> f64 {
    us as f64 / 1e6
}
