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
use journal::storage::Storage;
use journal::{JournalError, OwnedReceived};
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl<S: Storage> Delivery<S> {
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
            return self.waits_on(worked, "a fresh worker takes over", left, now_us);
        }
        let received = match self.reader.read(worked.task.location) {
            Ok(received) => Some(received),
            // What cannot be read back stays with the journal as a damaged record; the reason says so.
            Err(error) if is_lost(&error) => None,
            // Its bytes are there: to be listed without them would be to lose them.
            Err(error) => return self.cannot_list(worked, &error.to_string(), left, now_us),
        };
        let outcome = match is_ours(received.as_ref(), self.settings.channel.ack) {
            true => Outcome::Failed,
            false => Outcome::Returned,
        };
        if outcome == Outcome::Returned {
            outcomes.returned.push(self.give_back(worked, failed, left, now_us));
        } else if let Err(error) = self.fail(worked, failed, left, received, now_us) {
            return self.cannot_list(worked, &crate::files::plain(&error), left, now_us);
        } else {
            outcomes.failed.push((id, failed.step.clone()));
        }
        outcomes.gone.extend(self.dispatcher.remove(worked.task.ticket));
        outcome
    }

    /// The failed folder cannot be written either (the disk is full), or the message not be read.
    fn cannot_list(&self, worked: &Worked, error: &str, left: StepSet, now_us: i64) -> Outcome {
        log::error!("id={} could not be put into the failed folder: {error}", worked.task.id);
        self.waits_on(worked, "the failed folder could not be written", left, now_us)
    }

    /// It cannot be put away now: it stays in the queue as it is.
    fn waits_on(&self, worked: &Worked, why: &str, left: StepSet, now_us: i64) -> Outcome {
        self.dispatcher.reopen(worked.task.ticket, self.stays(worked, left, now_us, why));
        Outcome::Waiting
    }

    /// `ack: processed`: the sender keeps a message that could not be processed.
    fn give_back(&self, worked: &Worked, failed: &FailedStep, pending: StepSet, now_us: i64) -> Returned {
        let FailedStep { step, reason, .. } = failed;
        let (id, control_id, kind) = (worked.task.id, &worked.label.control_id, &worked.label.message_type);
        self.counters.failed(step);
        log::warn!(
            message_id:% = id, control_id = control_id.as_str(), step = step.as_str();
            "id={id} control_id={control_id:?} type={kind} bytes={} outcome=returned step={step} wait={}: {reason}; \
             its sender keeps it",
            worked.label.bytes,
            Seconds(now_us - worked.task.received_us),
        );
        let refusal = match failed.whose {
            Whose::Message => &Refusal::REQUIRED_FIELD_MISSING,
            Whose::Target => &Refusal::INTERNAL,
            Whose::Ours => &Refusal::PROCESSING_FAILED,
        };
        Returned { id, location: worked.task.location, pending, refusal }
    }

    /// Puts a message into the failed folder.
    fn fail(
        &self,
        worked: &Worked,
        failed: &FailedStep,
        left: StepSet,
        received: Option<OwnedReceived>,
        now_us: i64,
    ) -> std::io::Result<()> {
        let FailedStep { step, reason, attempts, .. } = failed;
        let id = worked.task.id;
        let workflow = flags::workflow(received.as_ref().map_or(0, |r| r.flags));
        let done = self.plan.steps_of(workflow).without(left);
        let steps_done = done.places().map(|p| self.plan.name(p).to_owned()).collect();
        let failure = Failure { step, reason, attempts: *attempts, steps_done };
        let message = FailedMessage::of(&self.settings.channel, id, received.as_ref(), failure);
        self.failed.keep(id, &message, &received.map(|r| r.body).unwrap_or_default())?;
        self.counters.failed(step);
        let (control_id, kind) = (&worked.label.control_id, &worked.label.message_type);
        log::error!(
            message_id:% = id, control_id = control_id.as_str(), step = step.as_str();
            "id={id} control_id={control_id:?} type={kind} bytes={} outcome=failed step={step} \
             attempts={attempts} wait={}: {reason}",
            worked.label.bytes,
            Seconds(now_us - worked.task.received_us),
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
            message_id:% = id, control_id = control_id.as_str();
            "id={id} control_id={control_id:?} type={message_type} bytes={bytes} outcome={outcome} \
             attempts={} wait={} steps={}",
            worked.task.attempts + 1,
            Seconds(worked.began_us - worked.task.received_us),
            Seconds(now_us - worked.began_us),
        );
    }

    fn log_waits(&self, worked: &Worked, decisions: &[Decision], now_us: i64) {
        let id = worked.task.id;
        for decision in decisions {
            let Decision::Waits(wait) = decision else { continue };
            let step = self.plan.name(usize::from(wait.place));
            log::warn!(
                message_id:% = id, step = step;
                "id={id} {step}: {}; trying again in {} s (attempt {})",
                wait.reason,
                (wait.until_us - now_us).max(0).saturating_add(500_000) / 1_000_000,
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

/// Whether a record will never be read, however often that is tried.
fn is_lost(error: &JournalError) -> bool {
    matches!(error, JournalError::Corrupt { .. } | JournalError::Gone { .. })
}

/// Whether a message that fails is listed here, whatever its sender does: it was told AA, or a person took it over. The
/// record says so, not what the channel does today; that counts only where the record is lost.
fn is_ours(received: Option<&OwnedReceived>, ack: AckMode) -> bool {
    received.map_or(ack == AckMode::Received, |received| flags::is_ours(received.flags))
}

/// Microseconds as seconds to the millisecond.
struct Seconds(i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Once or more for each message: a float takes ten times as long.
        let ms = (self.0.unsigned_abs() + 500) / 1000;
        let sign = if self.0 < 0 && ms > 0 { "-" } else { "" };
        let digit = |n: u64| char::from(b'0' + (n % 10) as u8);
        let (tenths, hundredths) = (digit(ms / 100), digit(ms / 10));
        write!(f, "{sign}{}.{tenths}{hundredths}{}", ms / 1000, digit(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::Workflow;

    #[test]
    fn a_message_that_was_told_aa_is_listed_whatever_the_channel_does_today() {
        let received = |flags| OwnedReceived {
            id: journal::MessageId::new(1, 0),
            time_us: 0,
            utc_offset_s: 0,
            peer: String::new(),
            keys: Vec::new(),
            tag: journal::Tag { identity: [0; 16], content: [0; 16] },
            flags,
            order: 1,
            body: Vec::new(),
        };
        let flags = flags::of(Workflow::Store);
        assert!(is_ours(Some(&received(flags::ours(flags))), AckMode::Processed));
        assert!(!is_ours(Some(&received(flags)), AckMode::Processed));
        assert!(is_ours(None, AckMode::Received));
    }

    #[test]
    fn only_a_record_that_will_never_be_read_is_listed_without_its_bytes() {
        let file = "1".to_owned();
        assert!(is_lost(&JournalError::Corrupt { file, offset: 0, what: "the record's checksum" }));
        assert!(is_lost(&JournalError::Gone { segment: 1 }));
        let errors = [JournalError::Io, JournalError::Full];
        assert!(!errors.map(|of| of(std::io::ErrorKind::OutOfMemory.into())).iter().any(is_lost));
    }
}
