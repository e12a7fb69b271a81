//! A histogram of durations with fixed buckets, so that two of them, of two processes or two times, can be added.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// Buckets an octave; a value is known to within 1/8 of itself.
const STEPS: usize = 8;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// The last octave ends at 2^39 µs, 152 hours: past the longest `retry.give_up` by default. Longer values count as that.
const OCTAVE_MAX: u32 = 38;
const BUCKETS: usize = (OCTAVE_MAX as usize - STEP_BITS as usize + 2) * STEPS;

/// Counts of durations from 1 µs to 152 h in log-linear buckets: eight to each doubling, exact to the microsecond
/// below 8 µs. Serialises as what it holds, so an idle one is a few bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Empty until the first value, else `BUCKETS` long.
    counts: Vec<u64>,
    count: u64,
    sum_us: u64,
}

/// What travels.
#[derive(Serialize, Deserialize)]
struct Sparse {
    sum_us: u64,
    buckets: Vec<(u16, u64)>,
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.add(bucket_of(us), 1);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds everything that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, &count) in other.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.add(bucket, count);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All durations together, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// The duration that the fraction `q` (0 to 1) of all stays at or below, in seconds; `None` while nothing was
    /// counted. Exact to 1/8: the middle of its bucket is given.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        // The cast saturates, so a q that is no number or out of range ends at the first or last value.
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0u64;
        let bucket = self.counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        })?;
        Some((lower_us(bucket) + upper_us(bucket)) as f64 / 2e6)
    }

    /// The buckets that hold something: upper bound in seconds (inclusive) and count, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| (upper_us(bucket) as f64 / 1e6, *count))
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
        self.count = self.count.saturating_add(count);
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let buckets = held.map(|(bucket, count)| (bucket as u16, *count)).collect();
        Sparse { sum_us: self.sum_us, buckets }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sparse = Sparse::deserialize(deserializer)?;
        let mut histogram = Self { sum_us: sparse.sum_us, ..Self::default() };
        for (bucket, count) in sparse.buckets {
            if usize::from(bucket) >= BUCKETS {
                return Err(serde::de::Error::custom(format!("no bucket {bucket} in a histogram")));
            }
            histogram.add(usize::from(bucket), count);
        }
        Ok(histogram)
    }
}

fn bucket_of(us: u64) -> usize {
    if us < STEPS as u64 {
        return us as usize;
    }
    let octave = us.ilog2();
    if octave > OCTAVE_MAX {
        return BUCKETS - 1;
    }
    let step = (us >> (octave - STEP_BITS)) as usize & (STEPS - 1);
    (octave - STEP_BITS + 1) as usize * STEPS + step
}

/// First microsecond of a bucket.
fn lower_us(bucket: usize) -> u64 {
    let (octave, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    if octave == 0 { step } else { (STEPS as u64 + step) << (octave - 1) }
}

/// Last microsecond of a bucket.
fn upper_us(bucket: usize) -> u64 {
    let (octave, width) = (bucket / STEPS, bucket.saturating_sub(STEPS) / STEPS);
    lower_us(bucket) + if octave == 0 { 0 } else { (1 << width) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_and_hold_their_own_bounds() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(lower_us(bucket)), bucket);
            assert_eq!(bucket_of(upper_us(bucket)), bucket);
            if bucket > 0 {
                assert_eq!(lower_us(bucket), upper_us(bucket - 1) + 1);
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let mut histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for (q, seconds) in [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99), (1.0, 1.0), (0.0, 0.001)] {
            let found = histogram.quantile(q).unwrap();
            assert!((found - seconds).abs() <= seconds / 8.0, "{q}: {found}");
        }
        assert_eq!(histogram.quantile(f64::NAN), histogram.quantile(0.0));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn merging_is_counting_both() {
        let (mut a, mut b, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for us in [0, 1, 7, 8, 900, 1_000_000, u64::MAX / 4] {
            a.record(Duration::from_micros(us));
            b.record(Duration::from_micros(us * 3));
            both.record(Duration::from_micros(us));
            both.record(Duration::from_micros(us * 3));
        }
        a.merge(&b);
        assert_eq!(a, both);
        assert_eq!(a.count(), 14);
        assert_eq!(a.buckets().map(|(_, count)| count).sum::<u64>(), 14);
    }

    #[test]
    fn it_travels_unchanged_and_a_false_one_is_refused_or_saturates() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_secs(3));
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
        assert!(serde_json::from_str::<Histogram>(r#"{"sum_us":0,"buckets":[[999,1]]}"#).is_err());
        let most = r#"{"sum_us":18446744073709551615,"buckets":[[1,18446744073709551615],[1,1],[2,5]]}"#;
        let mut most: Histogram = serde_json::from_str(most).unwrap();
        most.merge(&most.clone());
        most.record(Duration::from_secs(1));
        assert_eq!(most.count(), u64::MAX);
        assert!(most.quantile(1.0).is_some());
    }
}
