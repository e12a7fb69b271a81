//! When a step is tried again, and when it has failed for good. Pure: attempts and times in, a verdict out.

use config::Retry;

/// What becomes of a step whose attempt ended in `again`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Tried again at that time, in microseconds of Unix time.
    At(i64),
    /// `retry.give_up` is over.
    GiveUp,
}

/// The verdict on attempt number `attempt` (from 1) of a step that was first tried at `since_us` and failed at
/// `now_us`. A peer may ask for a longer wait (`Retry-After`) by `wanted_us`.
///
/// Waits are spread by up to a tenth, taken from `spread`, so that what failed together does not come back together.
pub fn verdict(
    retry: &Retry,
    attempt: u32,
    since_us: i64,
    now_us: i64,
    wanted_us: Option<i64>,
    spread: u64,
) -> Verdict {
    let give_up_us = since_us.saturating_add(micros(retry.give_up));
    if now_us >= give_up_us {
        return Verdict::GiveUp;
    }
    let wait_us = wait_us(retry, attempt, spread).max(wanted_us.unwrap_or(0));
    // The last attempt stands at the very end of the time the step was given.
    Verdict::At(now_us.saturating_add(wait_us).min(give_up_us))
}

/// The wait after attempt number `attempt`, in microseconds: `first`, doubling up to `longest`.
pub fn wait_us(retry: &Retry, attempt: u32, spread: u64) -> i64 {
    let doublings = attempt.saturating_sub(1).min(40);
    let wait = micros(retry.first).saturating_mul(1_i64 << doublings).min(micros(retry.longest)).max(1);
    wait - wait / 10 * (spread % 100) as i64 / 100
}

fn micros(d: std::time::Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn retry() -> Retry {
        Retry {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            give_up: Duration::from_secs(3600),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<i64> = (1..=11).map(|n| wait_us(&retry(), n, 0) / 1_000_000).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(wait_us(&retry(), u32::MAX, 0), 300_000_000);
    }

    #[test]
    fn a_wait_is_shortened_by_at_most_a_tenth() {
        for spread in 0..1000 {
            let wait = wait_us(&retry(), 3, spread);
            assert!((3_600_000..=4_000_000).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn the_last_attempt_stands_at_the_end_of_the_time_given() {
        let r = retry();
        assert_eq!(verdict(&r, 10, 0, 3_500_000_000, None, 0), Verdict::At(3_600_000_000));
        assert_eq!(verdict(&r, 11, 0, 3_600_000_000, None, 0), Verdict::GiveUp);
    }

    #[test]
    fn a_peer_may_ask_for_a_longer_wait_but_not_a_shorter_one() {
        let r = retry();
        assert_eq!(verdict(&r, 1, 0, 0, Some(30_000_000), 0), Verdict::At(30_000_000));
        assert_eq!(verdict(&r, 4, 0, 0, Some(1), 0), Verdict::At(8_000_000));
    }
}
