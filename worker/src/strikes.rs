//! What a message is charged with when a worker ends while it is being processed.
//!
//! A crash or a panic points at what ran: whoever ran then runs alone next, and with the second crash the message has
//! failed. A `kill -9` or the loss of power points at nobody: it is charged only to a message that ran alone, and five of
//! them are the limit.

use link::Death;

/// A crash signal, or a panic inside a step.
pub const CRASH: u8 = 5;
/// SIGKILL, or an end that nobody saw.
pub const KILL: u8 = 2;
/// From here on a message has failed.
pub const LIMIT: u8 = 10;

/// What the death of the last worker charges those messages with that it was processing.
pub fn weight(death: Option<Death>) -> u8 {
    match death {
        Some(Death::Crashed(_)) => CRASH,
        // Nobody saw it: the master ended too, or the power went.
        Some(Death::Killed) | None => KILL,
        Some(Death::Exited(_) | Death::Stopped) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_crashes_or_five_kills_are_the_limit() {
        assert!(weight(Some(Death::Crashed(11))) * 2 >= LIMIT && weight(Some(Death::Crashed(11))) < LIMIT);
        assert!(weight(Some(Death::Killed)) * 5 >= LIMIT && weight(Some(Death::Killed)) * 4 < LIMIT);
        assert_eq!(weight(Some(Death::Stopped)), 0);
    }
}
