//! One life of a journal: random work, as a worker would do it.

use super::model::{Event, Model, STEPS, body_of, keys_of, values_of};
use crate::error::JournalError;
use crate::recall::State;
use crate::storage::faulty::{Faulty, Random};
use crate::{Filler, Journal, Location, MessageId, Received, Record, Tag};

/// A message as the worker would know it.
pub(super) struct Known {
    pub(super) id: MessageId,
    pub(super) location: Location,
    pub(super) events: Vec<Event>,
}

pub(super) struct Run {
    pub(super) seed: u64,
    pub(super) random: Random,
    pub(super) journal: Journal<Faulty>,
    pub(super) filler: Option<Filler<Faulty>>,
    pub(super) model: Model,
    pub(super) open: Vec<Known>,
    pub(super) failed: Vec<MessageId>,
    /// Messages whose end is appended: told to the journal once that is written.
    pub(super) ending: Vec<Known>,
    /// As they were when the batch began: what a batch taken back leaves.
    pub(super) before: Vec<(MessageId, Location, Vec<Event>)>,
    pub(super) next: u64,
}

pub(super) type Outcome = Result<(), JournalError>;

impl Run {
    fn received(
        id: MessageId,
        keys: &[u64],
        body: &[u8],
        append: &mut dyn FnMut(&Record<'_>) -> Result<Location, JournalError>,
    ) -> Result<Location, JournalError> {
        append(&Record::Received(Received {
            id,
            time_us: id.unix_ms() as i64,
            utc_offset_s: 3600,
            peer: "10.0.0.1:5000",
            keys,
            tag: Tag { identity: [id.unix_ms() as u8; 16], content: [2; 16] },
            flags: 3,
            body,
        }))
    }

    fn append(&mut self, id: MessageId, event: Event) -> Result<Location, JournalError> {
        let (keys, body) = (keys_of(id), body_of(id));
        let location = match event {
            Event::Received => Run::received(id, &keys, &body, &mut |record| self.journal.append(record)),
            Event::StepDone(step) => self.journal.append(&Record::StepDone { id, step: STEPS[step] }),
            Event::Frozen(step) => {
                let values = values_of(id, step);
                self.journal.append(&Record::Frozen { id, step: STEPS[step], values: &values })
            }
            Event::Again(step, attempt) => {
                let step = STEPS[step];
                let record = Record::Again { id, step, attempt, until_us: 9, since_us: 1, reason: "down" };
                self.journal.append(&record)
            }
            Event::Strike(count) => self.journal.append(&Record::Strike { id, count }),
            Event::Ended(State::Done) => self.journal.append(&Record::Done { ids: &[id] }),
            Event::Ended(State::Failed) => self.journal.append(&Record::Failed { id, step: "solr" }),
            Event::Ended(State::Discarded) => self.journal.append(&Record::Discarded { id }),
            Event::Ended(State::Returned | State::Open) => self.journal.append(&Record::Returned { id }),
            Event::Retried => self.journal.append(&Record::Retried { id }),
        };
        // Also when it failed: part of it may stand in a file.
        self.model.push(id, event);
        location
    }

    fn written(&mut self) {
        for ended in std::mem::take(&mut self.ending) {
            self.journal.ended(ended.location);
        }
        self.model.batch = self.model.events.len();
        self.before =
            self.open.iter().map(|known| (known.id, known.location, known.events.clone())).collect();
    }

    fn flush(&mut self) -> Outcome {
        self.journal.flush()?;
        self.written();
        self.model.flushed();
        Ok(())
    }

    /// No room: everything is as it was when the batch began.
    pub(super) fn taken_back(&mut self) {
        self.model.taken_back();
        self.ending.clear();
        self.open = std::mem::take(&mut self.before)
            .into_iter()
            .map(|(id, location, events)| Known { id, location, events })
            .collect();
        self.before =
            self.open.iter().map(|known| (known.id, known.location, known.events.clone())).collect();
        let ended: Vec<_> = self
            .model
            .events
            .iter()
            .filter(|(_, event)| *event == Event::Ended(State::Failed))
            .map(|(id, _)| *id)
            .collect();
        self.failed.retain(|id| ended.contains(id));
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.open.is_empty()).then(|| self.random.below(self.open.len() as u64) as usize)
    }

    fn change(&mut self, event: Event) -> Outcome {
        let Some(index) = self.pick() else { return Ok(()) };
        self.append(self.open[index].id, event)?;
        let events = &mut self.open[index].events;
        if let Event::Strike(_) = event {
            // Of these only the last counts.
            events.retain(|event| !matches!(event, Event::Strike(_)));
        }
        events.push(event);
        Ok(())
    }

    fn end(&mut self, state: State) -> Outcome {
        let Some(index) = self.pick() else { return Ok(()) };
        let id = self.open[index].id;
        self.append(id, Event::Ended(state))?;
        let known = self.open.remove(index);
        self.ending.push(known);
        if state == State::Failed {
            self.failed.push(id);
        }
        Ok(())
    }

    fn receive(&mut self) -> Outcome {
        self.next += 1;
        let id = MessageId::new(self.next, self.random.bits());
        let location = self.append(id, Event::Received)?;
        self.open.push(Known { id, location, events: Vec::new() });
        Ok(())
    }

    /// As by hand: only what is safely failed is retried.
    fn retry(&mut self) -> Outcome {
        self.flush()?;
        let Some(id) = self.failed.pop() else { return Ok(()) };
        self.model.reopened.insert(id);
        let location = self.append(id, Event::Received)?;
        self.append(id, Event::Retried)?;
        self.open.push(Known { id, location, events: vec![Event::Retried] });
        self.flush()
    }

    /// Moves what waits in a sparse segment (or, to see more of it, in the oldest) to the end.
    fn compact(&mut self) -> Outcome {
        self.flush()?;
        let oldest = self.open.iter().map(|known| known.location.segment).min();
        let segment = match (self.journal.sparse(), oldest) {
            (Some(sparse), _) => sparse,
            (None, Some(oldest)) if oldest < self.journal.current_segment() => oldest,
            _ => return Ok(()),
        };
        let mut moved = Vec::new();
        for index in 0..self.open.len() {
            let (id, from) = (self.open[index].id, self.open[index].location);
            if from.segment != segment {
                continue;
            }
            self.model.push(id, Event::Received);
            let to = self.journal.append_moved(from)?;
            for event in self.open[index].events.clone() {
                self.append(id, event)?;
            }
            moved.push((index, from, to));
        }
        let hasty = self.random.percent(50);
        if hasty {
            self.journal.write()?;
            self.written();
        } else {
            self.flush()?;
        }
        for (index, from, to) in moved {
            self.journal.ended(from);
            self.open[index].location = to;
        }
        self.written();
        if hasty { self.retire() } else { Ok(()) }
    }

    /// Whatever goes must not be missed: what is not flushed yet is, first.
    fn retire(&mut self) -> Outcome {
        if self.journal.retire()? > 0 {
            self.written();
            self.model.flushed();
        }
        Ok(())
    }

    pub(super) fn step(&mut self) -> Outcome {
        let step = self.random.below(3) as usize;
        match self.random.below(100) {
            0..30 => self.receive(),
            30..45 => self.end(State::Done),
            45..50 => self.end([State::Failed, State::Discarded, State::Returned][step]),
            50..55 => self.change(Event::StepDone(step)),
            55..60 => self.change(Event::Frozen(step)),
            60..64 => {
                let attempt = self.random.below(9) as u32;
                self.change(Event::Again(step, attempt))
            }
            64..66 => {
                let strikes = self.model.events.iter().filter_map(|(_, event)| match event {
                    Event::Strike(count) => Some(*count),
                    _ => None,
                });
                let highest = strikes.max().unwrap_or(0);
                self.change(Event::Strike(highest.saturating_add(1)))
            }
            66..68 => self.retry(),
            68..70 => self.compact(),
            70..74 => {
                self.journal.write()?;
                self.written();
                Ok(())
            }
            74..76 => {
                self.flush()?;
                self.journal.settle(6000).map(drop)
            }
            76..80 => self.retire(),
            80..88 => match &self.filler {
                Some(filler) => filler.try_step().map(drop),
                None => Ok(()),
            },
            _ => self.flush(),
        }
    }
}
