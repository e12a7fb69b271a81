//! Attachments dropped on an SFTP server: OpenSSH's, and one unlike it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use support::messages::{PDF_FIELD, adt, oru, oru_of};
use support::mllp::Peer;
use support::peer::Foreign;
use support::sshd::{Sshd, keygen};
use support::{PATIENCE, Site, files, wait_files, within};

/// A site with a `document` channel, `oru`, that archives and drops into `far`, a folder of an SFTP server.
struct Dropper {
    site: Site,
    port: u16,
    far: PathBuf,
}

impl Dropper {
    fn new(far: Value) -> Dropper {
        let mut site = Site::new();
        let port = site.port();
        let mut channel = site.store_channel("oru", port);
        channel["message_types"] = json!({"ADT^A01": "store"});
        channel["attachment_field"] = json!(PDF_FIELD);
        channel["attachment_format"] = json!("pdf");
        channel["local_archive"]["attachment"] = json!(site.text("attachments"));
        channel["drop_folders"] = json!({"far": far});
        site.configure(json!({"channels": [channel]}));
        let far = site.path("far");
        Dropper { site, port, far }
    }

    /// With a folder of this machine's own OpenSSH.
    fn with_openssh() -> Option<(Dropper, Sshd)> {
        let mut site = Site::new();
        let (port, ssh) = (site.port(), site.port());
        let sshd = Sshd::start(&site.path("sshd"), ssh)?;
        let mut channel = site.store_channel("oru", port);
        channel["message_types"] = json!({"ADT^A01": "store"});
        channel["attachment_field"] = json!(PDF_FIELD);
        channel["attachment_format"] = json!("pdf");
        channel["local_archive"]["attachment"] = json!(site.text("attachments"));
        channel["drop_folders"] = json!({
            "near": {"path": site.text("near")},
            "far": {
                "remote": true, "server": "127.0.0.1", "port": ssh, "path": site.text("far"), "timeout": 2,
                "user": sshd.user(), "key_file": sshd.key(), "known_hosts": sshd.known_hosts(),
            },
        });
        site.configure(json!({"channels": [channel]}));
        let far = site.path("far");
        Some((Dropper { site, port, far }, sshd))
    }

    /// Sends documents of three patients; what is in them by name.
    #[track_caller]
    fn send(&self, names: std::ops::Range<usize>, bytes: usize) -> BTreeMap<String, Vec<u8>> {
        let mut peer = Peer::connect(self.port);
        let mut sent = BTreeMap::new();
        for n in names {
            let id = format!("DOC{n:03}");
            let (body, pdf) = oru_of(bytes, &id, &format!("P{}", n % 3));
            peer.exchange(&body).accepts(id.as_bytes());
            sent.insert(format!("{id}.pdf"), pdf);
        }
        sent
    }

    /// Fails unless exactly these files come to be in the folder, and nothing hidden.
    #[track_caller]
    fn arrived(&self, expected: &BTreeMap<String, Vec<u8>>) {
        wait_files(&self.far, ".pdf", expected.len());
        within(PATIENCE, "nothing waits any more", || self.site.is_drained().then_some(()));
        let found: BTreeMap<String, Vec<u8>> = files(&self.far, "")
            .into_iter()
            .map(|(path, bytes)| (path.file_name().unwrap().to_str().unwrap().to_owned(), bytes))
            .collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(found == *expected, "a file holds other bytes");
    }

    /// The reason why a message waits for the remote folder.
    #[track_caller]
    fn waits_for(&self) -> String {
        within(PATIENCE, "a message waits for the remote folder", || {
            let queue = self.site.list(&["queue", "list"]);
            let entry = queue.iter().find(|entry| entry["step"] == "drop_folder:far")?;
            entry["reason"].as_str().filter(|reason| !reason.is_empty()).map(str::to_owned)
        })
    }
}

/// Ends a thread that looks at it, after a panic too.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn documents_arrive_whole_and_once_while_the_server_is_killed_and_started() {
    let Some((dropper, mut sshd)) = Dropper::with_openssh() else { return };
    let _server = dropper.site.start();
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        // A reader of the folder: whatever it sees under a final name is whole.
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                for (path, bytes) in files(&dropper.far, ".pdf") {
                    assert!(bytes.ends_with(b"%%EOF\n"), "half a file at {}", path.display());
                    seen += 1;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            seen
        });
        let mut sent = dropper.send(0..20, 400 << 10);
        for round in 1..4 {
            wait_files(&dropper.far, ".pdf", round * 5);
            sshd.run(&["ed25519"], None);
            sent.extend(dropper.send(round * 20..round * 20 + 5, 400 << 10));
        }
        dropper.arrived(&sent);
        drop(Stops(&stop));
        assert!(reader.join().unwrap() > 0);
        sent
    });
    assert_eq!(sent.len(), 35);
    // Four threads, four servers: a session each and not one a file.
    assert!(sshd.logins() <= 20, "{} log-ins for {} files", sshd.logins(), sent.len());
}

#[test]
fn an_unknown_host_key_is_told_in_the_queue_and_counts_once_it_is_accepted() {
    let Some((dropper, sshd)) = Dropper::with_openssh() else { return };
    fs::write(sshd.known_hosts(), "").unwrap();
    let _server = dropper.site.start();
    let sent = dropper.send(0..3, 0);
    let reason = dropper.waits_for();
    assert!(reason.contains(&sshd.fingerprint("ed25519")), "{reason}");
    wait_files(&dropper.site.path("near"), ".pdf", 3);
    assert!(!dropper.far.exists());
    sshd.know(&["ed25519"]);
    dropper.arrived(&sent);
    assert!(dropper.site.list(&["failed", "list"]).is_empty());
}

#[test]
fn a_changed_host_key_and_a_wrong_key_send_nothing_and_are_told() {
    let Some((dropper, mut sshd)) = Dropper::with_openssh() else { return };
    sshd.change_host_key("ed25519");
    sshd.run(&["ed25519"], None);
    let _server = dropper.site.start();
    let sent = dropper.send(0..2, 0);
    assert!(dropper.waits_for().contains("HAS CHANGED"));
    sshd.know(&["ed25519"]);
    let ours = fs::read(sshd.path("authorized_keys")).unwrap();
    keygen(&["-t", "ed25519", "-N", ""], &sshd.path("another"));
    fs::copy(sshd.path("another.pub"), sshd.path("authorized_keys")).unwrap();
    within(PATIENCE, "the log-in is refused", || {
        dropper.waits_for().contains("does not let user").then_some(())
    });
    fs::write(sshd.path("authorized_keys"), ours).unwrap();
    dropper.arrived(&sent);
}

#[test]
fn a_frozen_server_holds_back_the_remote_folder_alone() {
    let Some((dropper, mut sshd)) = Dropper::with_openssh() else { return };
    let _server = dropper.site.start();
    let mut sent = dropper.send(0..2, 0);
    dropper.arrived(&sent);
    sshd.signal(Signal::SIGSTOP, true);
    sent.extend(dropper.send(10..30, 0));
    wait_files(&dropper.site.path("near"), ".pdf", 22);
    wait_files(&dropper.site.path("attachments"), ".pdf", 22);
    Peer::connect(dropper.port).exchange(&adt("BESIDE", "P0")).accepts(b"BESIDE");
    wait_files(&dropper.site.path("archive/oru"), ".hl7", 23);
    assert_eq!(files(&dropper.far, ".pdf").len(), 2);
    let reason = dropper.waits_for();
    assert!(reason.contains("sftp server "), "{reason}");
    sshd.run(&["ed25519"], None);
    dropper.arrived(&sent);
}

#[test]
fn a_killed_worker_finds_what_it_had_put_there() {
    let Some((dropper, _sshd)) = Dropper::with_openssh() else { return };
    let server = dropper.site.start();
    let sent = dropper.send(0..40, 200 << 10);
    for at in [5, 15, 25] {
        wait_files(&dropper.far, ".pdf", at);
        support::process::kill(server.worker(dropper.port));
    }
    dropper.arrived(&sent);
}

/// asyncssh asks for a password, by one method or the other; it flushes nothing and its rename replaces.
#[test]
fn another_server_takes_a_password_and_files_are_still_never_replaced() {
    for method in ["password", "keyboard-interactive"] {
        let mut site = Site::new();
        let ssh = site.port();
        let far = site.path("root");
        fs::create_dir(&far).unwrap();
        keygen(&["-t", "ed25519", "-N", ""], &site.path("host"));
        let log = site.path("peer.log");
        let arguments = [site.path("host"), far.clone(), PathBuf::from(method)];
        let arguments: Vec<&std::path::Path> = arguments.iter().map(PathBuf::as_path).collect();
        let Some(_peer) = Foreign::python("asyncssh_server.py", ssh, &arguments, &log) else { return };
        let public = fs::read_to_string(site.path("host.pub")).unwrap();
        fs::write(site.path("known"), format!("[127.0.0.1]:{ssh} {public}")).unwrap();
        let mut dropper = Dropper::new(json!({
            "remote": true, "server": "127.0.0.1", "port": ssh, "path": "/in/here", "user": "hl7",
            "password": "SFTP_PASSWORD", "known_hosts": site.path("known"), "timeout": 5,
        }));
        dropper.far = far.join("in/here");
        let mut command = dropper.site.command(&["run"]);
        command.env("SFTP_PASSWORD", "open sesame");
        let server = dropper.site.launch(command);
        server.wait_ready();
        let mut sent = dropper.send(0..5, 100 << 10);
        dropper.arrived(&sent);
        // The same control id and another document: a name of its own beside the first.
        let mut peer = Peer::connect(dropper.port);
        let (mut body, pdf) = oru("DOC000", "P9");
        body.extend_from_slice(b"NTE|1||once more\r");
        peer.exchange(&body).accepts(b"DOC000");
        wait_files(&dropper.far, ".pdf", 6);
        let suffixed = files(&dropper.far, ".pdf")
            .into_iter()
            .find(|(path, _)| path.to_string_lossy().contains("DOC000_"));
        let (path, bytes) = suffixed.expect("a file beside the first");
        assert_eq!(bytes, pdf);
        sent.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), pdf);
        dropper.arrived(&sent);
        let log = fs::read_to_string(dropper.site.log_path()).unwrap();
        assert!(!log.contains("open sesame"), "a secret in the log");
    }
}
