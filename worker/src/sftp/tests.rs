//! Against OpenSSH's own server, started as the user who runs the tests.

#[path = "../../../tests/support/ports.rs"]
mod ports;
#[path = "../../../tests/support/sshd.rs"]
mod sshd;

use super::*;
use nix::sys::signal::Signal;
use sshd::{Sshd, has_namespaces, keygen};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server, its drop folder, and the settings that reach it.
struct Site {
    sshd: Sshd,
    drop: PathBuf,
    _folder: TempDir,
    /// Keeps the port ours.
    _claim: fs::File,
}

impl Site {
    fn new() -> Option<Site> {
        let folder = tempfile::Builder::new().prefix("hl7t").tempdir().unwrap();
        let (port, claim) = ports::claim(std::process::id());
        let sshd = Sshd::start(&folder.path().join("sshd"), port)?;
        let drop = folder.path().join("drop");
        fs::create_dir(&drop).unwrap();
        Some(Site { sshd, drop, _folder: folder, _claim: claim })
    }

    fn folder(&self) -> RemoteFolder {
        RemoteFolder {
            path: self.drop.to_str().unwrap().to_owned(),
            server: "127.0.0.1".into(),
            port: self.sshd.port,
            user: self.sshd.user(),
            key_file: Some(self.sshd.key()),
            passphrase: None,
            password: None,
            known_hosts: Some(self.sshd.known_hosts()),
            timeout: Duration::from_secs(2),
        }
    }

    fn client(&self) -> SftpClient {
        self.client_with(|_| {})
    }

    fn client_with(&self, change: impl FnOnce(&mut RemoteFolder)) -> SftpClient {
        let mut folder = self.folder();
        change(&mut folder);
        let secrets = [("PASSPHRASE", "open sesame"), ("WRONG", "hunter2")];
        let secret = |(name, value): (&str, &str)| (name.to_owned(), SecretValue::new(value.to_owned()));
        SftpClient::new(&folder, &secrets.map(secret).into())
    }

    /// Every name in the drop folder.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.drop)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn id(n: u64) -> MessageId {
    MessageId::new(n, 0)
}

/// Why it may work later; the client's peer is down, so that nobody else need try.
#[track_caller]
fn down<T: std::fmt::Debug>(result: Result<T, Fault>) -> String {
    match result {
        Err(Fault::Again { reason, target_down: true, wanted_us: None }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_arrives_whole_with_its_folder_and_mode() {
    let Some(site) = Site::new() else { return };
    let mut client = site.client_with(|folder| folder.path.push_str("/new/deeper/"));
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let put = client.put("", "4711_M1", ".pdf", id(1), &bytes).unwrap();
    assert!(!put.was_there);
    let file = site.drop.join("new/deeper/4711_M1.pdf");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file) & !0o640, 0);
    assert_eq!(mode(&site.drop.join("new")) & !0o750, 0);
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no temporary stays");
    client.put("2026/01", "empty", ".pdf", id(2), b"").unwrap();
    assert_eq!(fs::read(site.drop.join("new/deeper/2026/01/empty.pdf")).unwrap(), b"");
}

#[test]
fn a_taken_name_is_the_same_file_or_gets_the_message_id() {
    let Some(site) = Site::new() else { return };
    let mut client = site.client();
    client.put("", "a", ".pdf", id(1), b"one").unwrap();
    // The answer to the first was lost.
    assert!(client.put("", "a", ".pdf", id(1), b"one").unwrap().was_there);
    assert_eq!(site.names(), ["a.pdf"]);
    // Same length, other bytes; again, and again after a lost answer.
    for was_there in [false, true] {
        assert_eq!(client.put("", "a", ".pdf", id(2), b"two").unwrap().was_there, was_there);
    }
    let suffixed = format!("a_{}.pdf", id(2));
    assert_eq!(site.names(), ["a.pdf".to_owned(), suffixed.clone()]);
    assert_eq!(fs::read(site.drop.join("a.pdf")).unwrap(), b"one");
    assert_eq!(fs::read(site.drop.join(suffixed)).unwrap(), b"two");
}

#[test]
fn a_link_or_folder_under_the_name_is_neither_followed_nor_replaced() {
    let Some(site) = Site::new() else { return };
    let mut client = site.client();
    let victim = site.drop.join("victim");
    fs::write(&victim, b"one").unwrap();
    std::os::unix::fs::symlink(&victim, site.drop.join("a.pdf")).unwrap();
    std::os::unix::fs::symlink(site.drop.join("nowhere"), site.drop.join("b.pdf")).unwrap();
    fs::create_dir(site.drop.join("c.pdf")).unwrap();
    for stem in ["a", "b", "c"] {
        let put = client.put("", stem, ".pdf", id(1), b"one").unwrap();
        assert!(put.path.ends_with(&format!("{stem}_{}.pdf", id(1))), "{put:?}");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"one");
    assert!(!site.drop.join("nowhere").exists());
}

#[test]
fn what_an_attempt_that_was_cut_off_left_is_written_anew() {
    let Some(site) = Site::new() else { return };
    let part = site.drop.join(format!(".a.pdf.{}.part", id(1)));
    fs::write(&part, b"half of it and more").unwrap();
    let old = fs::File::open(&part).unwrap();
    site.client().put("", "a", ".pdf", id(1), b"one").unwrap();
    assert_eq!(fs::read(site.drop.join("a.pdf")).unwrap(), b"one");
    assert_eq!(old.metadata().unwrap().len(), 19, "the old file was written into");
}

#[test]
fn host_keys_are_known_by_any_type_and_hashed() {
    let Some(mut site) = Site::new() else { return };
    site.sshd.change_host_key("rsa");
    site.sshd.run(&["ed25519", "ecdsa", "rsa"], None);
    for kind in ["ed25519", "ecdsa", "rsa"] {
        site.sshd.know(&[kind]);
        site.client().put("", kind, ".pdf", id(1), b"x").unwrap_or_else(|fault| panic!("{kind}: {fault:?}"));
    }
    site.sshd.hash_known_hosts();
    site.client().put("", "hashed", ".pdf", id(1), b"x").unwrap();
}

#[test]
fn an_unknown_host_key_is_refused_with_its_fingerprint_and_the_line_that_accepts_it() {
    let Some(site) = Site::new() else { return };
    fs::remove_file(site.sshd.known_hosts()).unwrap();
    let mut client = site.client();
    let reason = down(client.put("", "a", ".pdf", id(1), b"x"));
    assert!(
        reason.contains(&format!("is not known: ssh-ed25519 {}", site.sshd.fingerprint("ed25519"))),
        "{reason}"
    );
    assert_eq!(site.sshd.logins(), 0, "nobody logs in to a stranger");
    // The operator adds the line that the message ends with, and the next try passes.
    let (_, line) = reason.rsplit_once(": ").unwrap();
    assert_eq!(format!("{line}\n"), site.sshd.known_line("ed25519"));
    fs::write(site.sshd.known_hosts(), format!("{line}\n")).unwrap();
    client.put("", "a", ".pdf", id(1), b"x").unwrap();
}

#[test]
fn a_changed_host_key_is_refused_whatever_its_type() {
    let Some(mut site) = Site::new() else { return };
    site.sshd.know(&["ed25519"]);
    for (kinds, shown) in [(["ed25519"], "ed25519"), (["rsa"], "rsa")] {
        site.sshd.change_host_key(shown);
        site.sshd.run(&kinds, None);
        let reason = down(site.client().put("", "a", ".pdf", id(1), b"x"));
        assert!(reason.starts_with("THE HOST KEY OF sftp server "), "{reason}");
        assert!(reason.contains(&site.sshd.fingerprint(shown)), "{reason}");
        assert!(reason.contains("line 1 of "), "{reason}");
    }
    assert_eq!((site.sshd.logins(), site.names().len()), (0, 0));
}

#[test]
fn a_revoked_host_key_is_refused() {
    let Some(site) = Site::new() else { return };
    let line = site.sshd.known_line("ed25519");
    fs::write(site.sshd.known_hosts(), format!("{line}@revoked {line}")).unwrap();
    let reason = down(site.client().put("", "a", ".pdf", id(1), b"x"));
    assert!(reason.contains(" IS REVOKED by line 2 of "), "{reason}");
}

#[test]
fn who_may_not_log_in_is_told_why() {
    let Some(site) = Site::new() else { return };
    let other = site.sshd.path("other");
    keygen(&["-t", "ed25519", "-N", ""], &other);
    let peer = format!("sftp server \"127.0.0.1:{}\"", site.sshd.port);
    let user = site.sshd.user();
    let reason =
        down(site.client_with(|f| f.key_file = Some(other.clone())).put("", "a", ".pdf", id(1), b"x"));
    assert_eq!(reason, format!("{peer} does not let user {user:?} in: key {other:?}: not accepted"));
    let key = site.sshd.key();
    let reason = down(site.client_with(|f| f.user = "nobody-here".into()).put("", "a", ".pdf", id(1), b"x"));
    assert_eq!(reason, format!("{peer} does not let user \"nobody-here\" in: key {key:?}: not accepted"));
    let reason =
        down(site.client_with(|f| (f.key_file, f.password) = (None, config::SecretName::new("WRONG"))).put(
            "",
            "a",
            ".pdf",
            id(1),
            b"x",
        ));
    assert_eq!(reason, format!("{peer} does not let user {user:?} in: password: not accepted"));
}

#[test]
fn keys_of_all_kinds_open_with_and_without_passphrase() {
    let Some(site) = Site::new() else { return };
    let mut authorized = String::new();
    let mut keys = Vec::new();
    for (kind, format) in [
        ("ed25519", "RFC4716"),
        ("ecdsa", "RFC4716"),
        ("ecdsa", "PEM"),
        ("rsa", "RFC4716"),
        ("rsa", "PEM"),
        ("rsa", "PKCS8"),
    ] {
        for passphrase in ["", "open sesame"] {
            let path = site.sshd.path(&format!("key{}", keys.len()));
            keygen(&["-t", kind, "-m", format, "-N", passphrase], &path);
            authorized += &fs::read_to_string(path.with_extension("pub")).unwrap();
            keys.push((path, kind, format, !passphrase.is_empty()));
        }
    }
    fs::write(site.sshd.path("authorized_keys"), authorized).unwrap();
    for (path, kind, format, encrypted) in keys {
        let with = |secret: Option<&str>| {
            let passphrase = secret.and_then(config::SecretName::new);
            let client = site.client_with(|f| (f.key_file, f.passphrase) = (Some(path.clone()), passphrase));
            { client }.probe()
        };
        with(encrypted.then_some("PASSPHRASE")).unwrap_or_else(|fault| panic!("{kind} {format}: {fault:?}"));
        if encrypted {
            assert!(down(with(None)).ends_with("it needs a passphrase and none is set"));
            assert!(
                down(with(Some("WRONG"))).ends_with("the passphrase does not open it"),
                "{kind} {format}"
            );
        }
    }
    assert_eq!(site.names().len(), 0, "a probe leaves nothing");
}

#[test]
fn one_session_carries_many_files_and_is_made_again_when_the_server_was_restarted() {
    let Some(mut site) = Site::new() else { return };
    let mut client = site.client();
    for n in 0..20 {
        client.put("", &format!("a{n}"), ".pdf", id(n), b"x").unwrap();
    }
    assert_eq!(site.sshd.logins(), 1);
    site.sshd.run(&["ed25519"], None);
    client.put("", "b", ".pdf", id(100), b"x").unwrap();
    assert_eq!(site.sshd.logins(), 2);
    assert_eq!(site.names().len(), 21);
    site.sshd.kill();
    let reason = down(client.put("", "c", ".pdf", id(101), b"x"));
    assert_eq!(
        reason,
        format!("could not connect to sftp server \"127.0.0.1:{}\": connection refused", site.sshd.port)
    );
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let Some(site) = Site::new() else { return };
    let mut client = site.client();
    client.put("", "a", ".pdf", id(1), b"x").unwrap();
    fs::remove_dir_all(&site.drop).unwrap();
    client.put("", "b", ".pdf", id(2), b"x").unwrap();
    assert_eq!(site.names(), ["b.pdf"]);
}

/// The server dies, or freezes, while a file is written; afterwards it arrives once, and never was half of it there.
fn interrupted(signal: Signal) {
    let Some(mut site) = Site::new() else { return };
    let bytes = vec![7; 64 << 20];
    let mut client = site.client();
    client.put("", "first", ".pdf", id(1), b"x").unwrap();
    let begun = Instant::now();
    let (faults, took) = std::thread::scope(|scope| {
        let put = scope.spawn(|| client.put("", "big", ".pdf", id(2), &bytes).map(|_| ()));
        let part = site.drop.join(format!(".big.pdf.{}.part", id(2)));
        while !fs::metadata(&part).is_ok_and(|meta| meta.len() > 0) {
            assert!(begun.elapsed() < Duration::from_secs(20) && !put.is_finished(), "no upload began");
            std::thread::sleep(Duration::from_millis(1));
        }
        site.sshd.signal(signal, true);
        let stopped = Instant::now();
        (put.join().unwrap(), stopped.elapsed())
    });
    let reason = down(faults);
    assert!(reason.starts_with("lost the connection to sftp server "), "{reason}");
    // One timeout, and not one more for each goodbye to file, channel and server.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(!site.drop.join("big.pdf").exists());
    // Bounded, and one timeout only, with a server that takes connections and says nothing.
    if signal == Signal::SIGSTOP {
        let begun = Instant::now();
        let reason = down(client.put("", "big", ".pdf", id(2), &bytes));
        assert!(reason.ends_with("no answer in time"), "{reason}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
    site.sshd.run(&["ed25519"], None);
    assert!(!client.put("", "big", ".pdf", id(2), &bytes).unwrap().was_there);
    assert_eq!(site.names(), ["big.pdf", "first.pdf"]);
    assert_eq!(fs::read(site.drop.join("big.pdf")).unwrap(), bytes);
}

#[test]
fn a_server_killed_in_mid_file_gets_it_whole_and_once() {
    interrupted(Signal::SIGKILL);
}

#[test]
fn a_server_that_freezes_in_mid_file_holds_nobody_for_long() {
    interrupted(Signal::SIGSTOP);
}

#[test]
fn a_full_disk_a_read_only_one_and_a_closed_folder_may_pass() {
    let Some(mut site) = Site::new() else { return };
    if !has_namespaces() {
        return;
    }
    let drop = site.drop.to_str().unwrap().to_owned();
    let kinds = ["ed25519"];
    for (prepare, stem, said) in [
        (format!("mount -t tmpfs -o size=64k none {drop}"), "full", "no space left on its disk"),
        (format!("mount -t tmpfs -o ro none {drop}"), "ro", "the server gives no reason"),
    ] {
        site.sshd.run(&kinds, Some(&prepare));
        let mut client = site.client_with(|folder| folder.timeout = Duration::from_secs(10));
        let reason = down(client.put("", stem, ".pdf", id(1), &vec![1; 1 << 20]));
        let expected = format!(
            "could not put a file into {drop:?} on sftp server \"127.0.0.1:{}\": {said}",
            site.sshd.port
        );
        assert_eq!(reason, expected);
        // The session is as good as before, and the room is free again.
        let again = client.put("", stem, ".pdf", id(2), &vec![1; 32 << 10]);
        assert_eq!(again.is_ok(), stem == "full", "{again:?}");
        assert_eq!(site.sshd.logins(), 1, "a refusal costs no session");
        fs::write(site.sshd.path("sshd.log"), "").unwrap();
    }
    site.sshd.run(&kinds, None);
    let reason =
        down(site.client_with(|f| f.path = "/proc/no/such".into()).put("", "a", ".pdf", id(1), b"x"));
    assert!(reason.contains("folder \"/proc/no\" is not there and could not be made: "), "{reason}");
    fs::write(site.drop.join("file"), b"").unwrap();
    let reason = down(site.client_with(|f| f.path.push_str("/file")).put("", "a", ".pdf", id(1), b"x"));
    assert!(reason.ends_with("/file\" is no folder"), "{reason}");
}

#[test]
fn what_does_not_speak_ssh_or_says_nothing_ends_at_the_timeout() {
    let Some(site) = Site::new() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let reason = down(site.client_with(|f| f.port = port).put("", "a", ".pdf", id(1), b"x"));
    assert!(reason.starts_with("could not begin an SSH session with sftp server "), "{reason}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let web = std::thread::spawn(move || {
        use std::io::Write;
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    down(site.client_with(|f| f.port = port).put("", "a", ".pdf", id(1), b"x"));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(web);
}
