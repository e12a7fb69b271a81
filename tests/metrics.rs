//! `/metrics`: every counter of the contract under its name, in a text that Prometheus reads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::dashboard::Dashboard;
use support::http::get;
use support::messages::adt;
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, skip, within};

/// A server whose channel `adt` has accepted, refused, failed and seen again.
fn busy() -> (Site, Server) {
    let mut site = Site::new();
    let (adt_port, other) = (site.port(), site.port());
    let mut channel = site.store_channel("adt", adt_port);
    channel["accept_versions"] = json!(["2.5"]);
    let mut failing = site.store_channel("lab.x-1", other);
    failing["mapping"] = json!({"ward": "ZZZ.1.2"});
    site.configure(json!({"channels": [channel, failing], "config_version": "a\"b\\c"}));
    let server = site.start();
    let mut peer = Peer::connect(adt_port);
    peer.exchange(&adt("A", "P1")).accepts(b"A");
    peer.exchange(&adt("A", "P1")).accepts(b"A");
    let newer = String::from_utf8(adt("B", "P1")).unwrap().replace("|P|2.5", "|P|2.9");
    peer.exchange(newer.as_bytes()).refuses("AR", "203");
    Peer::connect(other).exchange(&adt("C", "P1")).accepts(b"C");
    server.wait_count("lab.x-1", "failed_now", 1);
    server.wait_count("adt", "delivered", 1);
    (site, server)
}

/// Series with its labels → value.
type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// A strict reader of the text format: families first, then their samples, no series twice.
fn parse(text: &str) -> (BTreeMap<String, String>, Samples) {
    let (mut kinds, mut helped, mut samples) = (BTreeMap::new(), BTreeSet::new(), Samples::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "no HELP before {line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else {
            let (series, labels, value) = sample(line);
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| {
                    series.strip_suffix(end).filter(|name| kinds.get(*name).is_some_and(|k| k == "histogram"))
                })
                .unwrap_or(&series);
            let kind = kinds.get(family).unwrap_or_else(|| panic!("no TYPE before {line}"));
            assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
            assert!(family.starts_with("hl7server_"), "{line}");
            assert!(samples.insert((series.clone(), labels), value).is_none(), "twice: {line}");
        }
    }
    (kinds, samples)
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let is_name = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line}"));
    let name = &line[..end];
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label), "{line}");
            let (mut value, mut letters) = (String::new(), after.char_indices());
            let stop = loop {
                match letters.next().unwrap_or_else(|| panic!("{line}")) {
                    (at, '"') => break at,
                    (_, '\\') => match letters.next().map(|(_, letter)| letter) {
                        Some('n') => value.push('\n'),
                        Some(letter @ ('\\' | '"')) => value.push(letter),
                        _ => panic!("an escape that is none: {line}"),
                    },
                    (_, letter) => value.push(letter),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            let after = &after[stop + 1..];
            match after.strip_prefix(',') {
                Some(next) => inner = next,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
}

#[test]
fn everything_that_is_counted_is_there_under_its_name() {
    let (mut site, _server) = busy();
    let dashboard = Dashboard::start(&mut site, &[]);
    let text = within(PATIENCE, "the counters", || {
        let text = get(dashboard.port, "/metrics").body;
        text.contains("hl7server_messages_failed_total{").then_some(text)
    });
    let (kinds, samples) = parse(&text);
    let of = |series: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        *samples
            .get(&(format!("hl7server_{series}"), labels))
            .unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    let adt = ("channel", "adt");
    let lab = ("channel", "lab.x-1");
    assert_eq!(of("up", &[]), 1.0);
    assert_eq!(of("info", &[("version", env!("CARGO_PKG_VERSION")), ("config_version", "a\"b\\c")]), 1.0);
    assert_eq!(of("messages_received_total", &[adt]), 3.0);
    assert_eq!(of("messages_accepted_total", &[lab]), 1.0);
    assert_eq!(of("messages_refused_total", &[adt, ("code", "203")]), 1.0);
    assert_eq!(of("messages_duplicate_total", &[adt]), 1.0);
    assert_eq!(of("messages_delivered_total", &[adt]), 1.0);
    assert_eq!(of("messages_failed_total", &[lab, ("step", "mapping")]), 1.0);
    assert_eq!(of("failed_messages", &[lab]), 1.0);
    assert_eq!(of("messages_waiting", &[adt]), 0.0);
    assert_eq!(of("oldest_waiting_seconds", &[adt]), 0.0);
    assert_eq!(of("channel_up", &[lab]), 1.0);
    assert_eq!(of("channel_state", &[adt, ("state", "ready")]), 1.0);
    assert!(of("bytes_in_total", &[adt]) > 300.0);
    assert!(of("start_time_seconds", &[]) > 1.7e9);
    for series in ["journal_bytes", "slots_used", "connections", "closed_for_room"] {
        assert!(of(series, &[adt]) >= 0.0, "{series}");
    }
    for (series, count) in [("ack_seconds", 2.0), ("delivery_seconds", 1.0)] {
        assert_eq!(kinds[&format!("hl7server_{series}")], "histogram");
        assert!(of(&format!("{series}_count"), &[adt]) >= count, "{series}");
        assert!(of(&format!("{series}_sum"), &[adt]) > 0.0, "{series}");
    }
}

#[test]
fn histograms_are_cumulative_and_end_with_their_count() {
    let (mut site, _server) = busy();
    let dashboard = Dashboard::start(&mut site, &[]);
    let (_, samples) = within(PATIENCE, "the counters", || {
        let text = get(dashboard.port, "/metrics").body;
        text.contains("hl7server_ack_seconds").then(|| parse(&text))
    });
    for name in ["hl7server_ack_seconds", "hl7server_delivery_seconds"] {
        for channel in ["adt", "lab.x-1"] {
            let mut buckets: Vec<(f64, f64)> = samples
                .iter()
                .filter(|((series, labels), _)| {
                    *series == format!("{name}_bucket") && labels["channel"] == channel
                })
                .map(|((_, labels), value)| (labels["le"].parse().unwrap(), *value))
                .collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.len() > 10 && buckets.is_sorted_by(|a, b| a.1 <= b.1), "{name} {buckets:?}");
            let count =
                samples[&(format!("{name}_count"), [("channel".to_owned(), channel.to_owned())].into())];
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name}");
        }
    }
}

#[test]
fn promtool_reads_it_without_a_word() {
    let (mut site, _server) = busy();
    let dashboard = Dashboard::start(&mut site, &[]);
    let text = within(PATIENCE, "the counters", || {
        let text = get(dashboard.port, "/metrics").body;
        text.contains("hl7server_messages_failed_total{").then_some(text)
    });
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/promtool");
    let mut command = if own.exists() { Command::new(own) } else { Command::new("promtool") };
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        return skip("no promtool; tests/support/install takes it out of Debian's package prometheus");
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
