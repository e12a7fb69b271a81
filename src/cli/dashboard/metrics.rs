//! PURE: what is counted, as Prometheus reads it (text format 0.0.4).
//!
//! Counters are a worker's, so they begin at nought when it is started again: what `rate()` expects. While the master
//! does not answer only `hl7server_up` is given, with 0: yesterday's counters would look like a quiet day.

use super::board::Sight;
use super::health::{self, Health};
use link::Histogram;
use master::control::ChannelStatus;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

/// The content type of this text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds, from a fast disk's flush to the longest `retry.give_up` by default. The server keeps finer
/// buckets than a scrape should carry; one that reaches over a bound counts above it, so that a bucket never says that
/// something was faster than it was.
const BOUNDS: [f64; 25] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0,
];

/// The whole text.
pub(super) fn text(sight: Option<&Sight>, health: &Health) -> String {
    let mut out = Text::default();
    let answers = sight.is_some_and(|sight| sight.fault.is_none());
    out.family("hl7server_up", "gauge", "Whether the server answers.");
    out.sample("hl7server_up", &[], u8::from(answers));
    let Some(status) = sight.filter(|_| answers).and_then(|sight| sight.status.as_ref()) else {
        return out.0;
    };
    out.family("hl7server_info", "gauge", "The program and its configuration.");
    let config_version = status.config_version.as_deref().unwrap_or_default();
    out.sample("hl7server_info", &[("version", &status.version), ("config_version", config_version)], 1);
    out.family(
        "hl7server_start_time_seconds",
        "gauge",
        "When the server was started, in seconds since 1970.",
    );
    out.sample("hl7server_start_time_seconds", &[], status.started_us as f64 / 1e6);
    of_channels(&mut out, &status.channels, health);
    out.0
}

fn of_channels(out: &mut Text, channels: &[ChannelStatus], health: &Health) {
    let mut out = Families { out, channels };
    out.number("channel_up", "gauge", "Whether the channel receives; 1 also where it is not enabled.", |c| {
        f64::from(u8::from(health.trouble(c).is_none()))
    });
    out.states();
    out.counter("channel_restarts_total", "Starts of a worker after a death.", |c| c.restarts);
    out.counter("messages_received_total", "Frames that came whole.", |c| c.status.received);
    out.counter("messages_accepted_total", "Messages acknowledged positively and kept.", |c| {
        c.status.accepted
    });
    out.labelled(
        "messages_refused_total",
        "Messages refused, by error code of HL7 table 0357.",
        "code",
        |c| &c.status.refused,
    );
    out.counter("messages_duplicate_total", "Messages that had come before.", |c| c.status.duplicates);
    out.counter("messages_delivered_total", "Messages of which every step is done.", |c| c.status.delivered);
    out.labelled("messages_failed_total", "Messages that failed, by step.", "step", |c| &c.status.failed);
    out.labelled("steps_again_total", "Tries of a step that ended again.", "step", |c| &c.status.again);
    out.labelled("steps_skipped_total", "Steps that a filter skipped.", "step", |c| &c.status.skipped);
    out.labelled("framing_deviations_total", "Deviations from MLLP framing.", "code", |c| &c.status.framing);
    out.counter("bytes_in_total", "Bytes read from peers.", |c| c.status.bytes_in);
    out.counter("attachments_unstamped_total", "Attachments delivered without their stamp.", |c| {
        c.status.unstamped
    });
    out.gauge("connections", "Open connections.", |c| c.status.connections);
    out.gauge("messages_waiting", "Messages accepted and not yet ended.", |c| c.status.waiting);
    out.number("oldest_waiting_seconds", "gauge", "Age of the oldest message that waits.", |c| {
        if c.status.waiting == 0 { 0.0 } else { c.status.oldest_waiting_seconds }
    });
    out.gauge("failed_messages", "Messages listed as failed now.", |c| c.status.failed_now);
    out.gauge("journal_bytes", "Bytes of the journal on disk.", |c| c.status.journal_bytes);
    out.gauge("slots_used", "Task slots held.", |c| c.status.slots_used);
    out.gauge("closed_for_room", "Whether the channel reads nothing for want of room on the disk.", |c| {
        u64::from(c.status.closed_for_room)
    });
    out.certificates();
    out.histogram("ack_seconds", "From a message's last byte to its acknowledgment.", |c| {
        &c.status.ack_seconds
    });
    out.histogram("delivery_seconds", "From acceptance to the end of the last step.", |c| {
        &c.status.delivery_seconds
    });
}

/// Writes families, each over all channels.
struct Families<'a> {
    out: &'a mut Text,
    channels: &'a [ChannelStatus],
}

impl Families<'_> {
    fn number(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&ChannelStatus) -> f64) {
        let name = format!("hl7server_{name}");
        self.out.family(&name, kind, help);
        for channel in self.channels {
            self.out.sample(&name, &[("channel", &channel.name)], of(channel));
        }
    }

    fn counter(&mut self, name: &str, help: &str, of: impl Fn(&ChannelStatus) -> u64) {
        self.integer(name, "counter", help, of);
    }

    fn gauge(&mut self, name: &str, help: &str, of: impl Fn(&ChannelStatus) -> u64) {
        self.integer(name, "gauge", help, of);
    }

    fn integer(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&ChannelStatus) -> u64) {
        let name = format!("hl7server_{name}");
        self.out.family(&name, kind, help);
        for channel in self.channels {
            self.out.sample(&name, &[("channel", &channel.name)], of(channel));
        }
    }

    /// A counter by one more label. A family that nothing was counted in yet is left out.
    fn labelled(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        of: impl Fn(&ChannelStatus) -> &BTreeMap<String, u64>,
    ) {
        let name = format!("hl7server_{name}");
        if self.channels.iter().all(|channel| of(channel).is_empty()) {
            return;
        }
        self.out.family(&name, "counter", help);
        for channel in self.channels {
            for (value, count) in of(channel) {
                self.out.sample(&name, &[("channel", &channel.name), (label, value)], count);
            }
        }
    }

    /// Of the channels that have one.
    fn certificates(&mut self) {
        let name = "hl7server_certificate_expires_timestamp_seconds";
        let expires =
            |channel: &ChannelStatus| Some((channel.name.clone(), channel.status.certificate_expires?));
        let found: Vec<(String, i64)> = self.channels.iter().filter_map(expires).collect();
        if !found.is_empty() {
            self.out.family(name, "gauge", "When the certificate that peers are shown expires.");
        }
        for (channel, expires_s) in found {
            self.out.sample(name, &[("channel", &channel)], expires_s);
        }
    }

    fn states(&mut self) {
        let name = "hl7server_channel_state";
        self.out.family(name, "gauge", "1 for the state that the channel is in.");
        for channel in self.channels {
            let state = channel.state.name();
            self.out.sample(name, &[("channel", &channel.name), ("state", state)], 1);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, of: impl Fn(&ChannelStatus) -> &Histogram) {
        let name = format!("hl7server_{name}");
        self.out.family(&name, "histogram", help);
        for channel in self.channels {
            let histogram = of(channel);
            let label = ("channel", channel.name.as_str());
            for (bound, count) in BOUNDS.iter().zip(cumulative(histogram)) {
                self.out.sample(&format!("{name}_bucket"), &[label, ("le", &bound.to_string())], count);
            }
            self.out.sample(&format!("{name}_bucket"), &[label, ("le", "+Inf")], histogram.count());
            self.out.sample(&format!("{name}_sum"), &[label], histogram.sum_seconds());
            self.out.sample(&format!("{name}_count"), &[label], histogram.count());
        }
    }
}

/// How many stayed at or below each bound.
fn cumulative(histogram: &Histogram) -> [u64; BOUNDS.len()] {
    let mut counts = [0_u64; BOUNDS.len()];
    for (upper, count) in histogram.buckets() {
        let first = BOUNDS.partition_point(|bound| *bound < upper);
        for counted in &mut counts[first..] {
            *counted = counted.saturating_add(count);
        }
    }
    counts
}

/// Lines of the format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if n == 0 { '{' } else { ',' });
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    // Steps and codes are what a worker says they are.
                    letter if letter.is_control() => self.0.push('?'),
                    letter => self.0.push(letter),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// The lines for `/healthz`: what is wrong, or one that says that nothing is.
pub(super) fn health(sight: Option<&Sight>, health: &Health) -> Result<String, String> {
    let Some(sight) = sight else { return Err(format!("{}\n", health::NOT_ASKED)) };
    let troubles = sight.troubles(health);
    if troubles.is_empty() {
        let channels = sight.status.iter().flat_map(|status| &status.channels);
        return Ok(format!("ok: {} channels up\n", channels.filter(|c| health::is_enabled(c)).count()));
    }
    Err(troubles.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::channel;
    use super::*;
    use crate::cli::server::ServerStatus;
    use std::sync::Arc;
    use std::time::Duration;

    fn sight(channels: Vec<ChannelStatus>) -> Sight {
        let version = "1.0".to_owned();
        let status = ServerStatus { version, config_version: None, pid: 1, started_us: 2_500_000, channels };
        Sight { status: Some(Arc::new(status)), fault: None, answered_us: 1 }
    }

    #[test]
    fn a_bucket_never_says_that_something_was_faster_than_it_was() {
        let mut histogram = Histogram::default();
        let us = [100, 500, 501, 999, 1_000, 1_001, 59_000_000, 400_000_000_000];
        us.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
        let counts = cumulative(&histogram);
        for (bound, count) in BOUNDS.iter().zip(counts) {
            let sure = us.iter().filter(|us| **us as f64 / 1e6 <= *bound).count() as u64;
            assert!(count <= sure, "{bound}: {count} of {sure}");
        }
        assert!(counts.is_sorted());
        assert_eq!(counts[BOUNDS.len() - 1], 7);
    }

    #[test]
    fn labels_are_escaped_and_hostile_ones_stay_on_their_line() {
        let mut hostile = channel("a", 1, 2);
        hostile.status.failed = [("x\"\\\n} 1\r\u{85}".to_owned(), 3)].into();
        hostile.status.certificate_expires = Some(4_000_000_000);
        let text = text(Some(&sight(vec![hostile, channel("b", 1, 2)])), &Health::default());
        let certificates: Vec<&str> =
            text.lines().filter(|line| line.contains("certificate_expires")).collect();
        assert_eq!(certificates.len(), 3, "{certificates:?}");
        assert!(certificates[2].ends_with("_seconds{channel=\"a\"} 4000000000"), "{certificates:?}");
        let line = text.lines().find(|line| line.starts_with("hl7server_messages_failed_total")).unwrap();
        assert_eq!(line, r#"hl7server_messages_failed_total{channel="a",step="x\"\\\n} 1??"} 3"#);
        assert!(text.contains("hl7server_messages_received_total{channel=\"a\"} 1\n"));
        assert!(text.contains("hl7server_start_time_seconds 2.5\n"));
        assert!(text.contains("hl7server_ack_seconds_bucket{channel=\"a\",le=\"+Inf\"} 0\n"));
    }

    #[test]
    fn a_silent_server_is_down_and_has_no_counters() {
        let mut gone = sight(vec![channel("a", 1, 2)]);
        gone.fault = Some("no server answers".into());
        let text = text(Some(&gone), &Health::default());
        assert!(text.ends_with("hl7server_up 0\n") && !text.contains("received"));
        assert_eq!(health(Some(&gone), &Health::default()).unwrap_err(), "no server answers\n");
        assert!(health(None, &Health::default()).is_err());
        assert!(health(Some(&sight(vec![channel("a", 1, 2)])), &Health::default()).is_ok());
    }
}
