//! The order of a patient's messages: each passes each step in the order in which they were acknowledged. Pure.
//!
//! A *lane* is the line of open messages of one order key (a patient, mostly). For each step the lane knows its *head*:
//! the first message in line that still has this step before it. A message may carry out a step when it is the head for
//! it in every lane it stands in. Order is kept per patient AND step: a message whose Solr step waits for a retry holds
//! back that patient's later Solr steps and nothing else.

use crate::plan::StepSet;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Names an open message; a place in the dispatcher's table.
pub type Ticket = u32;

/// All lanes of a channel.
#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<u64, Lane, BuildHasherDefault<KeyHash>>,
}

/// Order keys are hashes by a key of the channel's own already.
#[derive(Debug, Default)]
struct KeyHash(u64);

impl Hasher for KeyHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = self.0.rotate_left(8) ^ key;
    }
}

/// What a lane of one message costs, its key included.
#[cfg(test)]
pub const LANE_BYTES: usize = size_of::<(u64, Lane)>();

/// Most lanes hold one message: that costs no allocation.
#[derive(Debug)]
enum Lane {
    One(Ticket, StepSet),
    Many(Box<Line>),
}

/// A lane of several messages, or one that was.
#[derive(Debug, Default)]
struct Line {
    /// Messages in line with the steps still before them; an empty set stands for one that has left.
    queue: VecDeque<(Ticket, StepSet)>,
    /// Number of the front of `queue`, counted since the lane began.
    first: u64,
    /// By place of the step: the number of its head. Missing: nobody has it before them.
    heads: Vec<Option<u64>>,
}

impl Lanes {
    /// Puts a message at the end of the lane of `key`, with `steps` before it.
    pub fn join(&mut self, key: u64, ticket: Ticket, steps: StepSet) {
        use std::collections::hash_map::Entry;
        match self.lanes.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Lane::One(ticket, steps));
            }
            Entry::Occupied(mut entry) => {
                let lane = entry.get_mut();
                if let Lane::One(first, their_steps) = *lane {
                    let mut line = Line::default();
                    line.push(first, their_steps);
                    *lane = Lane::Many(Box::new(line));
                }
                if let Lane::Many(line) = lane {
                    line.push(ticket, steps);
                }
            }
        }
    }

    /// Those of the message's steps that nobody before it in the lane of `key` still has before them.
    pub fn allowed(&self, key: u64, ticket: Ticket) -> StepSet {
        match self.lanes.get(&key) {
            Some(Lane::One(only, steps)) if *only == ticket => *steps,
            Some(Lane::Many(line)) => line.allowed(ticket),
            _ => StepSet::EMPTY,
        }
    }

    /// Takes `ended` off the message's steps in the lane of `key`; with no step left it leaves the lane. The messages
    /// that became head for one of these steps are added to `woken`.
    pub fn end(&mut self, key: u64, ticket: Ticket, ended: StepSet, woken: &mut Vec<Ticket>) {
        let empty = match self.lanes.get_mut(&key) {
            Some(Lane::One(only, steps)) if *only == ticket => {
                *steps = steps.without(ended);
                steps.is_empty()
            }
            Some(Lane::Many(line)) => {
                line.end(ticket, ended, woken);
                line.queue.is_empty()
            }
            _ => false,
        };
        if empty {
            self.lanes.remove(&key);
        }
    }

    /// The next message behind this one in the lane of `key` with one of these steps before it, and all that it has
    /// before it.
    pub fn behind(&self, key: u64, ticket: Ticket, of: StepSet) -> Option<(Ticket, StepSet)> {
        match self.lanes.get(&key)? {
            Lane::One(..) => None,
            Lane::Many(line) => {
                let place = line.place(ticket)?;
                line.queue.iter().skip(place + 1).find(|(_, steps)| !steps.and(of).is_empty()).copied()
            }
        }
    }
}

impl Line {
    fn push(&mut self, ticket: Ticket, steps: StepSet) {
        let number = self.first + self.queue.len() as u64;
        for place in steps.places() {
            if self.heads.len() <= place {
                self.heads.resize(place + 1, None);
            }
            self.heads[place].get_or_insert(number);
        }
        self.queue.push_back((ticket, steps));
    }

    /// Heads are looked at first: a message that runs is the head of something.
    fn place(&self, ticket: Ticket) -> Option<usize> {
        let at = |number: u64| (number - self.first) as usize;
        let head = self.heads.iter().flatten().map(|n| at(*n)).find(|p| self.queue[*p].0 == ticket);
        head.or_else(|| self.queue.iter().position(|(t, steps)| *t == ticket && !steps.is_empty()))
    }

    fn allowed(&self, ticket: Ticket) -> StepSet {
        let mut allowed = StepSet::EMPTY;
        for (place, head) in self.heads.iter().enumerate() {
            if head.is_some_and(|n| self.queue[(n - self.first) as usize].0 == ticket) {
                allowed = allowed.with(StepSet::one(place));
            }
        }
        allowed
    }

    fn end(&mut self, ticket: Ticket, ended: StepSet, woken: &mut Vec<Ticket>) {
        let Some(at) = self.place(ticket) else { return };
        let number = self.first + at as u64;
        let ended = ended.and(self.queue[at].1);
        self.queue[at].1 = self.queue[at].1.without(ended);
        for place in ended.places() {
            if self.heads[place] != Some(number) {
                continue;
            }
            let next = (at + 1..self.queue.len()).find(|p| self.queue[*p].1.has(place));
            self.heads[place] = next.map(|p| self.first + p as u64);
            if let Some(p) = next
                && woken.last() != Some(&self.queue[p].0)
            {
                woken.push(self.queue[p].0);
            }
        }
        while self.queue.front().is_some_and(|(_, steps)| steps.is_empty()) {
            self.queue.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(places: &[usize]) -> StepSet {
        places.iter().fold(StepSet::EMPTY, |s, p| s.with(StepSet::one(*p)))
    }

    #[test]
    fn a_step_that_waits_holds_back_only_itself() {
        let mut lanes = Lanes::default();
        lanes.join(7, 1, steps(&[0, 1]));
        lanes.join(7, 2, steps(&[0, 1]));
        assert_eq!(lanes.allowed(7, 1), steps(&[0, 1]));
        assert_eq!(lanes.allowed(7, 2), steps(&[]));
        let mut woken = Vec::new();
        lanes.end(7, 1, steps(&[0]), &mut woken);
        assert_eq!(woken, [2]);
        assert_eq!(lanes.allowed(7, 2), steps(&[0]));
        assert_eq!(lanes.allowed(7, 1), steps(&[1]));
        lanes.end(7, 2, steps(&[0]), &mut woken);
        lanes.end(7, 1, steps(&[1]), &mut woken);
        assert_eq!(lanes.allowed(7, 2), steps(&[1]));
        lanes.end(7, 2, steps(&[1]), &mut woken);
        assert!(lanes.lanes.is_empty());
    }

    #[test]
    fn a_message_without_the_step_is_passed_over() {
        let mut lanes = Lanes::default();
        lanes.join(7, 1, steps(&[1]));
        lanes.join(7, 2, steps(&[0]));
        lanes.join(7, 3, steps(&[1]));
        let mut woken = Vec::new();
        assert_eq!(lanes.allowed(7, 2), steps(&[0]));
        lanes.end(7, 1, steps(&[1]), &mut woken);
        assert_eq!(woken, [3]);
        assert_eq!(lanes.behind(7, 2, steps(&[0, 1])), Some((3, steps(&[1]))));
        assert_eq!(lanes.behind(7, 2, steps(&[0])), None);
    }

    /// Against a model that looks at the whole line each time.
    #[test]
    fn random_lines_agree_with_the_definition() {
        let mut seed = 12345_u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..300 {
            let mut lanes = Lanes::default();
            let mut model: Vec<(Ticket, StepSet)> = Vec::new();
            for ticket in 0..60 {
                let mut set = StepSet::EMPTY;
                while set.is_empty() {
                    set = (0..4).filter(|_| random(2) == 0).fold(set, |s, p| s.with(StepSet::one(p)));
                }
                lanes.join(1, ticket, set);
                model.push((ticket, set));
                for _ in 0..random(4) {
                    let Some(at) = (!model.is_empty()).then(|| random(model.len() as u64) as usize) else {
                        break;
                    };
                    let before = model[..at].iter().fold(StepSet::EMPTY, |s, (_, t)| s.with(*t));
                    let allowed = model[at].1.without(before);
                    assert_eq!(lanes.allowed(1, model[at].0), allowed);
                    let end = allowed
                        .places()
                        .filter(|_| random(2) == 0)
                        .fold(StepSet::EMPTY, |s, p| s.with(StepSet::one(p)));
                    lanes.end(1, model[at].0, end, &mut Vec::new());
                    model[at].1 = model[at].1.without(end);
                    model.retain(|(_, s)| !s.is_empty());
                }
            }
        }
    }
}
