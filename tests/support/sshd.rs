//! OpenSSH's server, started by the user who runs the tests. Used by the black-box tests and, by its path, by the unit
//! tests of the worker: it knows neither of them.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with keys of its own, in a folder that outlives it. Dropping it kills it and its sessions.
pub struct Sshd {
    folder: PathBuf,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    child: Option<Child>,
}

impl Sshd {
    /// Makes keys below `folder` and starts a server there. `None`, and a line that says so, without OpenSSH's server;
    /// in CI that is a failure.
    pub fn start(folder: &Path, port: u16) -> Option<Sshd> {
        if !Path::new(SSHD).exists() || !Path::new(SFTP_SERVER).exists() {
            assert!(std::env::var_os("CI").is_none(), "no {SSHD}: run tests/support/install");
            eprintln!("SKIPPED: no {SSHD}: run tests/support/install");
            return None;
        }
        // As root it wants this folder, which its service makes at boot.
        let _ = fs::create_dir_all("/run/sshd");
        fs::create_dir_all(folder).unwrap();
        let mut sshd = Sshd { folder: folder.to_owned(), port, child: None };
        for kind in ["ed25519", "ecdsa"] {
            keygen(&["-t", kind, "-N", ""], &sshd.path(&format!("host_{kind}")));
        }
        keygen(&["-t", "ed25519", "-N", ""], &sshd.path("user_ed25519"));
        let public = fs::read(sshd.path("user_ed25519.pub")).unwrap();
        fs::write(sshd.path("authorized_keys"), public).unwrap();
        sshd.know(&["ed25519", "ecdsa"]);
        sshd.run(&["ed25519", "ecdsa"], None);
        Some(sshd)
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The user who may log in: the one who runs the tests.
    pub fn user(&self) -> String {
        nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
    }

    /// The private key that lets that user in.
    pub fn key(&self) -> PathBuf {
        self.path("user_ed25519")
    }

    /// Its `known_hosts`.
    pub fn known_hosts(&self) -> PathBuf {
        self.path("known_hosts")
    }

    /// Writes `known_hosts` with these of its host keys.
    pub fn know(&self, kinds: &[&str]) {
        let lines: String = kinds.iter().map(|kind| self.known_line(kind)).collect();
        fs::write(self.known_hosts(), lines).unwrap();
    }

    /// The line of one of its host keys.
    pub fn known_line(&self, kind: &str) -> String {
        let public = fs::read_to_string(self.path(&format!("host_{kind}.pub"))).unwrap();
        let words: Vec<&str> = public.split_whitespace().collect();
        format!("[127.0.0.1]:{} {} {}\n", self.port, words[0], words[1])
    }

    /// Replaces its `known_hosts` by what `ssh-keygen -H` makes of it.
    pub fn hash_known_hosts(&self) {
        let status = Command::new("ssh-keygen")
            .args(["-H", "-f"])
            .arg(self.known_hosts())
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        assert!(!fs::read_to_string(self.known_hosts()).unwrap().contains("127.0.0.1"));
    }

    /// The fingerprint of one of its host keys, as `ssh-keygen -l` says it.
    pub fn fingerprint(&self, kind: &str) -> String {
        let output =
            Command::new("ssh-keygen").arg("-lf").arg(self.path(&format!("host_{kind}.pub"))).output();
        String::from_utf8(output.unwrap().stdout).unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Makes another host key of a kind, in place of the old one. It begins with an ed25519 and an ecdsa key: an RSA key
    /// takes seconds to make.
    pub fn change_host_key(&self, kind: &str) {
        let _ = fs::remove_file(self.path(&format!("host_{kind}")));
        keygen(&["-t", kind, "-N", ""], &self.path(&format!("host_{kind}")));
    }

    /// Starts it with these host keys. With `prepare`, a piece of shell, each session is in a mount namespace of its
    /// own, in which that has run.
    pub fn run(&mut self, kinds: &[&str], prepare: Option<&str>) {
        self.kill();
        let host_keys: String = kinds
            .iter()
            .map(|kind| format!("HostKey {}\n", self.path(&format!("host_{kind}")).display()))
            .collect();
        let subsystem = match prepare {
            None => "internal-sftp".to_owned(),
            Some(script) => {
                let path = self.path("sftp.sh");
                fs::write(&path, format!("{script}\nexec {SFTP_SERVER}\n")).unwrap();
                format!("/usr/bin/unshare -rm /bin/sh -e {}", path.display())
            }
        };
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\n{host_keys}PidFile none\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             MaxStartups 100\nSetEnv HOME={}\nSubsystem sftp {subsystem}\n",
            self.port,
            self.path("authorized_keys").display(),
            // A command is run by the user's shell, whose start-up files are none of ours, nor to be killed.
            self.folder.display(),
        );
        fs::write(self.path("sshd_config"), config).unwrap();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("sshd.log")).unwrap();
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f"]).arg(self.path("sshd_config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs::read_to_string(self.path("sshd.log")).unwrap_or_default();
            assert!(Instant::now() < end, "sshd does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every process of it: the listener, then the sessions.
    pub fn processes(&self) -> Vec<u32> {
        let Some(child) = &self.child else { return Vec::new() };
        let mut found = vec![child.id()];
        let mut at = 0;
        while at < found.len() {
            found.extend(children(found[at]));
            at += 1;
        }
        found
    }

    /// Sends a signal to the sessions, and to the listener too where `listener`.
    pub fn signal(&self, signal: nix::sys::signal::Signal, listener: bool) {
        for pid in self.processes().into_iter().skip(usize::from(!listener)) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
        }
    }

    /// Kills it with all its sessions.
    pub fn kill(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGKILL, true);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Connections it has taken that were authenticated.
    pub fn logins(&self) -> usize {
        fs::read_to_string(self.path("sshd.log")).unwrap_or_default().matches("Accepted ").count()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether `unshare -rm` works here.
pub fn has_namespaces() -> bool {
    let probe = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
    let has = probe.is_ok_and(|status| status.success());
    if !has {
        eprintln!("SKIPPED: no user and mount namespaces (unshare -rm) here");
    }
    has
}

/// Makes a key; its public half stands beside it.
pub fn keygen(arguments: &[&str], path: &Path) {
    let mut command = Command::new("ssh-keygen");
    // One round of the passphrase hash: tests wait for it at every log-in.
    command.args(["-q", "-a", "1"]).args(arguments).arg("-f").arg(path);
    if arguments.contains(&"rsa") {
        command.args(["-b", "2048"]);
    }
    let status = command.status();
    assert!(status.expect("ssh-keygen is in openssh-client").success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
