//! The channels of the server that `bench` starts, each for one kind of work.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a channel does with its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Archives any message.
    Archive,
    /// Keeps any message in its journal, and does nothing else.
    Keep,
    /// The same beside another channel.
    Second,
    /// The same over TLS.
    Tls,
    /// Archives an ORU, takes its PDF out, stamps it, archives it and drops it.
    Documents,
    /// Passes its messages on to a peer, and does nothing else.
    Forward,
    /// Archives any message after taking values out of it.
    Mapped,
    /// One of many that archive.
    Numbered(u32),
}

impl Purpose {
    /// The channel's name.
    pub(super) fn name(self) -> String {
        let name = match self {
            Purpose::Archive => "adt",
            Purpose::Keep => "keep",
            Purpose::Second => "second",
            Purpose::Tls => "tls",
            Purpose::Documents => "oru",
            Purpose::Forward => "forward",
            Purpose::Mapped => "mapped",
            Purpose::Numbered(number) => return format!("channel{number}"),
        };
        name.to_owned()
    }

    /// Below the server's folder, where a file comes out for each message.
    pub(super) fn folders(self) -> Vec<PathBuf> {
        let archive = Path::new("archive").join(self.name());
        match self {
            Purpose::Archive | Purpose::Second | Purpose::Tls | Purpose::Mapped | Purpose::Numbered(_) => {
                vec![archive]
            }
            Purpose::Documents => vec![archive, "attachments".into(), "drop".into()],
            Purpose::Keep | Purpose::Forward => Vec::new(),
        }
    }
}

/// What a server is started for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Its channels; the first archives.
    pub(super) purposes: Vec<Purpose>,
    /// Connections that a channel is to take.
    pub(super) connections: usize,
    /// The largest message to come.
    pub(super) message_bytes: usize,
    /// The peer of [`Purpose::Forward`].
    pub(super) peer: Option<SocketAddr>,
    /// Certificate and key of [`Purpose::Tls`].
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
}

impl Wanted {
    /// For channels without a peer or a certificate.
    pub(super) fn of(purposes: &[Purpose], connections: usize, message_bytes: usize) -> Wanted {
        let purposes = purposes.to_vec();
        Wanted { purposes, connections, message_bytes, peer: None, certificate: None }
    }

    /// The file of a server in `folder` whose channels listen at `ports`.
    pub(super) fn configuration(&self, folder: &Path, ports: &[u16]) -> String {
        let path = |below: &str| quoted(&folder.join(below));
        let mut text = format!("state_path: {}\nruntime_path: {}\nchannels:\n", path("state"), path("run"));
        let connections = self.connections + 16;
        // A message may be a little larger than the template says, never smaller than the least limit.
        let stream_limit = (self.message_bytes + 4096).max(10 << 20);
        for (purpose, port) in self.purposes.iter().zip(ports) {
            let name = purpose.name();
            text += &format!(
                "- name: {name}\n  \
                   port: {port}\n  \
                   listen: 127.0.0.1\n  \
                   stream_limit: {stream_limit}\n  \
                   max_connections: {connections}\n  \
                   max_connections_per_address: {connections}\n"
            );
            text += &self.work(*purpose, &path);
        }
        text
    }

    fn work(&self, purpose: Purpose, path: &impl Fn(&str) -> String) -> String {
        let archive = path(&format!("archive/{}", purpose.name()));
        let archived = format!("  message_types: {{'*': store}}\n  local_archive: {{path: {archive}}}\n");
        match purpose {
            Purpose::Archive | Purpose::Second | Purpose::Numbered(_) => archived,
            Purpose::Keep => "  message_types: {'*': store}\n".to_owned(),
            Purpose::Mapped => format!(
                "{archived}  mapping: {{patient_id: PID.1.3.1, patient_name: [PID.1.5.1, PID.1.5.2], notes: NTE.*.3}}\n"
            ),
            Purpose::Tls => {
                let (certificate, key) =
                    self.certificate.as_ref().expect("whoever wants TLS brings a certificate");
                let (certificate, key) = (quoted(certificate), quoted(key));
                format!("{archived}  tls: {{certificate: {certificate}, key: {key}}}\n")
            }
            Purpose::Documents => format!(
                "  attachment_field: OBX.1.5\n  \
                   attachment_format: pdf\n  \
                   mapping: {{patient_id: PID.1.3.1, patient_name: [PID.1.5.1, PID.1.5.2], order: OBR.1.2.1}}\n  \
                   add_metadata_to_attachment: true\n  \
                   visible_metadata: true\n  \
                   local_archive: {{path: {archive}, attachment: {}}}\n  \
                   drop_folders: {{pickup: {{path: {}}}}}\n",
                path("attachments"),
                path("drop"),
            ),
            Purpose::Forward => {
                let peer = self.peer.expect("whoever wants to pass messages on names a peer");
                // It comes back a second after its peer does.
                format!(
                    "  message_types: {{'*': store}}\n  \
                       resend: {{server: '{}', port: {}, timeout: 2}}\n  \
                       retry: {{first: 1s, longest: 1s}}\n",
                    peer.ip(),
                    peer.port()
                )
            }
        }
    }
}

/// JSON's quotes are YAML's too.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_configuration_is_one_that_loads() {
        use Purpose::{Archive, Documents, Forward, Keep, Mapped, Numbered, Second, Tls};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hl7server.yaml");
        let wanted = Wanted {
            peer: Some(([127, 0, 0, 1], 9).into()),
            certificate: Some((folder.path().join("a.pem"), folder.path().join("a.key"))),
            ..Wanted::of(&[Archive, Keep, Second, Tls, Documents, Forward, Mapped, Numbered(1)], 256, 1 << 20)
        };
        let ports = [20_001, 20_002, 20_003, 20_004, 20_005, 20_006, 20_007, 20_008];
        fs::write(&file, wanted.configuration(folder.path(), &ports)).unwrap();
        let loaded = config::load(&file, &|_| true, config::Mode::Check).map_err(|p| p.to_string()).unwrap();
        assert_eq!(loaded.config.channels.len(), 8);
    }
}
