//! Latencies of a run, to within 1/64: finer than what workers report, since ratios of a tenth are measured here.

use std::time::Duration;

/// Buckets an octave.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of durations in log-linear buckets of microseconds.
#[derive(Clone, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(super) fn record(&mut self, value: Duration) {
        let bucket = bucket_of(u64::try_from(value.as_micros()).unwrap_or(u64::MAX >> 1));
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
    }

    /// Microseconds that the fraction `q` of all stays at or below; zero while nothing was counted.
    pub(super) fn quantile_us(&self, q: f64) -> u64 {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        bucket.map_or(0, lower_us)
    }
}

/// Below 64 µs a bucket each; above, 64 to each doubling.
fn bucket_of(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let octave = us.ilog2() - STEP_BITS;
    (u64::from(octave + 1) * STEPS + (us >> octave) - STEPS) as usize
}

fn lower_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let octave = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << octave
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_to_within_a_64th() {
        for us in (0..100_000).chain([1 << 30, (1 << 40) + 12_345]) {
            let lower = lower_us(bucket_of(us));
            assert!(lower <= us && us - lower <= us / STEPS, "{us} reads as {lower}");
        }
    }

    #[test]
    fn quantiles_are_taken_by_rank() {
        let mut latencies = Histogram::default();
        (1..=50).for_each(|us| latencies.record(Duration::from_micros(us)));
        assert_eq!(latencies.quantile_us(0.5), 25);
        assert_eq!(latencies.quantile_us(0.99), 50);
        assert_eq!(Histogram::default().quantile_us(0.5), 0);
    }
}
