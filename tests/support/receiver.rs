//! One running channel, and what a test of receiving asks of it.

use super::mllp::Peer;
use super::{PATIENCE, Server, Site, files, wait_files, within};
use serde_json::{Value, json};

/// A site with one running channel, `adt`.
pub struct Receiver {
    /// Its folder.
    pub site: Site,
    /// The port of `adt`.
    pub port: u16,
    /// The running server.
    pub server: Server,
}

impl Receiver {
    /// With a channel that stores every type.
    #[track_caller]
    pub fn start() -> Receiver {
        Receiver::with(json!({}))
    }

    /// With these keys on top of a channel that stores every type; null takes a key away.
    #[track_caller]
    pub fn with(keys: Value) -> Receiver {
        let mut site = Site::new();
        let port = site.port();
        let mut channel = site.store_channel("adt", port);
        for (key, value) in keys.as_object().unwrap() {
            if value.is_null() {
                channel.as_object_mut().unwrap().remove(key);
            } else {
                channel[key] = value.clone();
            }
        }
        site.configure(json!({"channels": [channel]}));
        let server = site.start();
        Receiver { site, port, server }
    }

    /// A new connection.
    #[track_caller]
    pub fn connect(&self) -> Peer {
        Peer::connect(self.port)
    }

    /// Waits until exactly these bodies are archived, in any order.
    #[track_caller]
    pub fn archived(&self, expected: &[&[u8]]) {
        let mut found: Vec<Vec<u8>> = wait_files(&self.site.path("archive/adt"), ".hl7", expected.len())
            .into_iter()
            .map(|(_, body)| body)
            .collect();
        let mut expected: Vec<Vec<u8>> = expected.iter().map(|body| body.to_vec()).collect();
        found.sort();
        expected.sort();
        assert!(
            found == expected,
            "{:?}",
            found.iter().map(|b| String::from_utf8_lossy(b)).collect::<Vec<_>>()
        );
    }

    /// Waits until the bytes are in quarantine.
    #[track_caller]
    pub fn quarantined(&self, bytes: &[u8]) {
        let folder = self.site.path("state/adt/quarantine");
        within(PATIENCE, &format!("{:?} in quarantine", String::from_utf8_lossy(bytes)), || {
            let holds = |content: &[u8]| content.windows(bytes.len()).any(|window| window == bytes);
            files(&folder, "").iter().any(|(_, content)| holds(content)).then_some(())
        });
    }

    /// Waits until a framing deviation has been counted.
    #[track_caller]
    pub fn counted(&self, code: &str) {
        within(PATIENCE, &format!("the deviation {code} is counted"), || {
            let channel = self.server.channel("adt");
            let framing = channel.get("framing").unwrap_or(&channel["status"]["framing"]);
            (framing[code].as_u64()? > 0).then_some(())
        });
    }
}
