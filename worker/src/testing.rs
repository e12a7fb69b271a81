//! What the unit tests of this crate share.

use config::{Mode, WorkerSettings};

/// The settings of the only channel of a file with these lines below the channel's name and port.
pub(crate) fn settings(lines: &str) -> WorkerSettings {
    let dir = tempfile::tempdir().unwrap();
    let indented: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let file = dir.path().join("test.yaml");
    std::fs::write(&file, format!("channels:\n  - name: test\n    port: 20001\n{indented}")).unwrap();
    let loaded = config::load(&file, &|_| true, Mode::Run).unwrap_or_else(|p| panic!("{p}"));
    loaded.config.worker_settings(&loaded.config.channels[0])
}

// Doubles of peers, shared with the tests of the whole server, which use the rest of them.
#[allow(dead_code, reason = "see above")]
#[path = "../../tests/support/dfapi.rs"]
pub(crate) mod dfapi;
#[allow(dead_code, reason = "see above")]
#[path = "../../tests/support/http_server.rs"]
pub(crate) mod http_server;
#[allow(dead_code, reason = "see above")]
#[path = "../../tests/support/solr.rs"]
pub(crate) mod solr;
