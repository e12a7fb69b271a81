//! PURE: counters over the last two minutes, as rates. Kept in memory: Prometheus is for longer.

use master::control::ChannelStatus;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A sample covers at least so long, however often the master is asked.
const SAMPLE: Duration = Duration::from_millis(1900);
/// Two minutes of them.
pub(super) const SAMPLES_MAX: usize = 60;
/// How many of the last ones the number beside the line is the mean of.
const RECENT: usize = 5;

/// The rates of every channel.
#[derive(Debug, Default)]
pub(super) struct History {
    channels: BTreeMap<String, Rates>,
}

/// The rates of one channel.
#[derive(Debug)]
pub(super) struct Rates {
    received: Line,
    delivered: Line,
    sampled_at: Instant,
}

/// One counter.
#[derive(Debug)]
pub(super) struct Line {
    last: u64,
    /// Per second, the newest last.
    samples: VecDeque<f32>,
}

impl History {
    /// Adds an answer of the master. Channels that it no longer names are forgotten.
    pub(super) fn add(&mut self, channels: &[ChannelStatus], now: Instant) {
        for channel in channels {
            let status = &channel.status;
            let rates = self.channels.entry(channel.name.clone()).or_insert_with(|| Rates {
                received: Line::new(status.received),
                delivered: Line::new(status.delivered),
                sampled_at: now,
            });
            let elapsed = now.saturating_duration_since(rates.sampled_at);
            if elapsed >= SAMPLE {
                rates.received.add(status.received, elapsed);
                rates.delivered.add(status.delivered, elapsed);
                rates.sampled_at = now;
            }
        }
        if self.channels.len() > channels.len() {
            self.channels.retain(|name, _| channels.iter().any(|channel| channel.name == *name));
        }
    }

    /// Messages received.
    pub(super) fn received(&self, channel: &str) -> Option<&Line> {
        self.channels.get(channel).map(|rates| &rates.received)
    }

    /// Messages delivered.
    pub(super) fn delivered(&self, channel: &str) -> Option<&Line> {
        self.channels.get(channel).map(|rates| &rates.delivered)
    }
}

impl Line {
    fn new(count: u64) -> Line {
        Line { last: count, samples: VecDeque::with_capacity(SAMPLES_MAX) }
    }

    fn add(&mut self, count: u64, elapsed: Duration) {
        // A counter that fell is that of a new worker, which began at nought.
        let more = count.checked_sub(self.last).unwrap_or(count);
        self.last = count;
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((more as f64 / elapsed.as_secs_f64()) as f32);
    }

    /// Per second, oldest first.
    pub(super) fn samples(&self) -> impl ExactSizeIterator<Item = f32> + '_ {
        self.samples.iter().copied()
    }

    /// Per second, over the last ten seconds; `None` before there is a sample.
    pub(super) fn recent(&self) -> Option<f64> {
        let count = self.samples.len().min(RECENT);
        let sum: f64 = self.samples.iter().rev().take(count).copied().map(f64::from).sum();
        (count > 0).then(|| sum / count as f64)
    }

    /// The highest.
    pub(super) fn peak(&self) -> f32 {
        self.samples.iter().copied().fold(0.0, f32::max)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use link::Status;
    use master::control::ChannelState;
    use std::net::{IpAddr, Ipv4Addr};

    /// A channel that is ready and has received and delivered so much.
    pub(in crate::cli) fn channel(name: &str, received: u64, delivered: u64) -> ChannelStatus {
        ChannelStatus {
            name: name.to_owned(),
            port: 20001,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            pid: Some(7),
            state: ChannelState::Ready,
            since_us: 1,
            restarts: 0,
            problem: None,
            status: Status { received, delivered, ..Status::default() },
        }
    }

    fn received(history: &History) -> Vec<f32> {
        history.received("a").unwrap().samples().collect()
    }

    #[test]
    fn a_rate_is_what_came_in_the_time_since_the_last_sample() {
        let start = Instant::now();
        let mut history = History::default();
        for (seconds, count) in [(0, 100), (1, 110), (2, 120), (3, 120), (4, 120), (8, 128)] {
            history.add(&[channel("a", count, 0)], start + Duration::from_secs(seconds));
        }
        assert_eq!(received(&history), [10.0, 0.0, 2.0]);
        assert_eq!(history.received("a").unwrap().recent(), Some(4.0));
        assert_eq!(history.received("a").unwrap().peak(), 10.0);
    }

    #[test]
    fn a_new_worker_counts_from_nought() {
        let start = Instant::now();
        let mut history = History::default();
        history.add(&[channel("a", 1000, 0)], start);
        history.add(&[channel("a", 6, 0)], start + Duration::from_secs(2));
        assert_eq!(received(&history), [3.0]);
    }

    #[test]
    fn it_is_bounded_and_forgets_channels_that_are_gone() {
        let start = Instant::now();
        let mut history = History::default();
        for n in 0..200 {
            history.add(&[channel("a", n, n), channel("b", n, n)], start + Duration::from_secs(n * 2));
        }
        assert_eq!(received(&history).len(), SAMPLES_MAX);
        history.add(&[channel("b", 0, 0)], start + Duration::from_secs(1000));
        assert!(history.received("a").is_none() && history.delivered("b").is_some());
    }
}
