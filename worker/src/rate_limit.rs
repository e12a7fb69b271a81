//! Log lines that peers can cause: at most one of a kind in ten seconds, with the number left out.

use std::collections::HashMap;
use std::hash::Hash;

/// Time between two lines of a kind, in milliseconds.
const BETWEEN_MS: u64 = 10_000;
/// Kinds remembered.
const KINDS_MAX: usize = 256;

/// Remembers when a kind of line was last written.
#[derive(Debug)]
pub struct RateLimit<K> {
    kinds: HashMap<K, (u64, u64)>,
}

impl<K> Default for RateLimit<K> {
    fn default() -> Self {
        RateLimit { kinds: HashMap::new() }
    }
}

impl<K: Eq + Hash> RateLimit<K> {
    /// How many lines of that kind were left out since the last, where one may be written now.
    pub fn pass(&mut self, kind: K, now_ms: u64) -> Option<u64> {
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.kinds.clear();
        }
        match self.kinds.get_mut(&kind) {
            Some((last_ms, left_out)) if now_ms < *last_ms + BETWEEN_MS => {
                *left_out += 1;
                None
            }
            Some((last_ms, left_out)) => {
                *last_ms = now_ms;
                Some(std::mem::take(left_out))
            }
            None => {
                self.kinds.insert(kind, (now_ms, 0));
                Some(0)
            }
        }
    }
}

/// What is added to a line about lines left out.
pub fn left_out(n: u64) -> String {
    if n == 0 { String::new() } else { format!(" ({n} more of this kind not logged)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_and_the_next_says_how_many_are_missing() {
        let mut limit = RateLimit::default();
        assert_eq!(limit.pass("a", 0), Some(0));
        assert_eq!(limit.pass("a", 1), None);
        assert_eq!(limit.pass("b", 1), Some(0));
        assert_eq!(limit.pass("a", 9_999), None);
        assert_eq!(limit.pass("a", 10_000), Some(2));
    }
}
