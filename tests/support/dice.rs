//! Random choices that can be made again: the seed is printed, and taken from `HL7SERVER_SEED` where that is set.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator of one test's choices.
pub struct Dice {
    /// What `HL7SERVER_SEED` has to be for the same choices.
    pub seed: u64,
    state: u64,
}

impl Dice {
    /// Seeded by the time, or as the environment says.
    pub fn thrown() -> Dice {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("HL7SERVER_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(now) | 1;
        eprintln!("HL7SERVER_SEED={seed}");
        Dice { seed, state: seed }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) as usize % limit
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
