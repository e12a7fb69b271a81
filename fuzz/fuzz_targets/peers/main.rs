//! What the other peers of a channel say, and what stands in a message or a file in a notation of its own: one small
//! decoder each, chosen by the first byte.
//!
//! They are taken from their sources and not from the crates `worker` and `hl7server`: those link OpenSSL, libssh2 and
//! SQLite, whose instrumented build takes longer than all the fuzzing of a change, and would have to make public what is
//! nobody's business. So this file stands in for the little that the decoders know of their crates.
#![no_main]

mod attachment;
mod solr;
mod tls;

/// As `worker::fault::Fault`.
mod fault {
    #[derive(Debug, PartialEq)]
    pub enum Fault {
        Again { reason: String, target_down: bool, wanted_us: Option<i64> },
        Failed(String),
    }

    impl Fault {
        pub fn down(reason: String) -> Fault {
            Fault::Again { reason, target_down: true, wanted_us: None }
        }

        pub fn own(reason: String) -> Fault {
            Fault::Again { reason, target_down: false, wanted_us: None }
        }
    }
}

/// As `worker::http::Response`.
mod http {
    use crate::fault::Fault;

    pub struct Response {
        pub status: ::http::StatusCode,
        pub wanted_us: Option<i64>,
        pub location: Option<String>,
        pub body: Result<Vec<u8>, Fault>,
    }
}

#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../src/cli/dashboard/http.rs"]
mod dashboard;
#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/sftp/known_hosts.rs"]
mod known_hosts;

use known_hosts::{KnownHosts, Verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [choice, rest @ ..] = data else { return };
    match choice % 6 {
        0 => attachment::fuzz(rest),
        1 => solr::fuzz(rest),
        2 => tls::stream(rest),
        3 => tls::certificate(rest),
        4 => request(rest),
        _ => hosts(rest),
    }
});

/// A head is refused, taken or not whole, whatever is behind it; and one that was taken is what was sent.
fn request(bytes: &[u8]) {
    let parsed = dashboard::parse(bytes);
    if let Some(dashboard::Head::Whole { request, .. }) = &parsed {
        assert!(request.path.starts_with('/') && !request.path.contains(['\r', '\n', ' ', '?']));
        let longer = [bytes, b"rest"].concat();
        assert_eq!(dashboard::parse(&longer), parsed, "what follows a head changes nothing");
        let values = [&request.host, &request.authorization];
        assert!(values.into_iter().flatten().all(|value| !value.contains(['\r', '\n', '\0'])));
    }
}

/// A key is known by a line of the file only, and a line that we write makes its key known where nothing contradicts.
fn hosts(bytes: &[u8]) {
    let [length, rest @ ..] = bytes else { return };
    let (key, text) = rest.split_at(usize::from(*length).min(rest.len()));
    let Ok(text) = str::from_utf8(text) else { return };
    let hosts = KnownHosts::parse(text);
    for (host, port) in [("pacs.example.org", 22), ("10.0.0.7", 2222), ("Pacs", 1)] {
        let verdict = hosts.verdict(host, port, key);
        let lines = text.lines().count();
        if let Verdict::Changed { line } | Verdict::Revoked { line } = verdict {
            assert!((1..=lines).contains(&line));
        }
        let algorithms = hosts.algorithms(host, port);
        assert_eq!(
            algorithms.split(',').count(),
            KnownHosts::default().algorithms(host, port).split(',').count()
        );
        let Some(line) = known_hosts::line(host, port, key) else { continue };
        assert_eq!(KnownHosts::parse(&line).verdict(host, port, key), Verdict::Known);
        let longer = KnownHosts::parse(&format!("{text}\n{line}"));
        let expected = if matches!(verdict, Verdict::Revoked { .. }) { verdict } else { Verdict::Known };
        assert_eq!(longer.verdict(host, port, key), expected);
    }
    known_hosts::fingerprint(key);
}
