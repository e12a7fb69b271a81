//! What a worker can still do once somebody has taken it over, and what it goes on doing for its channel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
// The worker's hook is not in a release.
#![cfg(debug_assertions)]

mod support;

use link::{Answer, Question, Takeover};
use master::control::{self, Request, Response};
use nix::libc;
use serde_json::json;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use support::certificates::{Ca, Good, Key};
use support::messages::{PDF_FIELD, adt, oru};
use support::mllp::Peer;
use support::trace::Trace;
use support::{PATIENCE, Server, Site, process, skip, wait_files, within};

const DENIED: [i32; 2] = [libc::EACCES, libc::EPERM];

/// Has the worker of a channel try something: 0, or the number of the error.
#[track_caller]
fn taken_over(site: &Site, channel: &str, what: Takeover) -> i32 {
    let request = Request::Ask { channel: channel.to_owned(), question: Question::Takeover(what) };
    match control::call(&site.path("run"), &request, PATIENCE).unwrap() {
        Response::Answer(Answer::TakenOver(error)) => error,
        other => panic!("not an outcome: {other:?}"),
    }
}

/// Fails unless all of it is denied.
#[track_caller]
fn denied(site: &Site, channel: &str, attempts: Vec<Takeover>) {
    for attempt in attempts {
        let error = taken_over(site, channel, attempt.clone());
        assert!(DENIED.contains(&error), "{attempt:?} gave {error}");
    }
}

#[track_caller]
fn allowed(site: &Site, channel: &str, attempts: Vec<Takeover>) {
    for attempt in attempts {
        assert_eq!(taken_over(site, channel, attempt.clone()), 0, "{attempt:?}");
    }
}

fn call(number: i64, arguments: &[i64]) -> Takeover {
    let mut six = [0; 6];
    six[..arguments.len()].copy_from_slice(arguments);
    Takeover::SystemCall { number, arguments: six }
}

/// The ABI of Landlock that the worker says it has; 0 without.
#[track_caller]
fn landlock_abi(server: &Server, channel: &str) -> u32 {
    let level = within(PATIENCE, "the first report", || {
        server.channel(channel)["status"]["sandbox"].as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    });
    assert!(level.ends_with(", seccomp"), "{level}");
    let abi = level.strip_prefix("Landlock ABI ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    abi.unwrap_or_else(|| {
        skip(&format!("this kernel has no Landlock: {level}"));
        0
    })
}

/// Two channels: `mine`, which resends to a peer, and `other`, over TLS.
struct Pair {
    site: Site,
    server: Server,
    other_port: u16,
    peer: TcpListener,
    key: PathBuf,
}

impl Pair {
    #[track_caller]
    fn start() -> Pair {
        let mut site = Site::new();
        let (mine_port, other_port, peer_port) = (site.port(), site.port(), site.port());
        let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, peer_port)).unwrap();
        let pair = Ca::new(&site.path("pki"), "Test CA").server("localhost", Key::Ecdsa, Good::Days(90));
        let mut mine = site.store_channel("mine", mine_port);
        mine["resend"] = json!({"server": "127.0.0.1", "port": peer_port});
        mine["drop_folders"] = json!({"local": {"path": site.text("drop")}});
        let mut other = site.store_channel("other", other_port);
        other["tls"] = json!({"certificate": pair.certificate, "key": pair.key});
        site.configure(json!({"channels": [mine, other]}));
        let server = site.start();
        Pair { site, server, other_port, peer, key: pair.key }
    }
}

#[test]
fn a_worker_taken_over_reaches_no_file_that_is_not_its_channels() {
    let pair = Pair::start();
    let site = &pair.site;
    if landlock_abi(&pair.server, "mine") == 0 {
        return;
    }
    let sibling = pair.server.worker(pair.other_port);
    let read = |path: PathBuf| Takeover::Read(path);
    denied(
        site,
        "mine",
        vec![
            read(site.path("archive/other")),
            read(site.path("state/other")),
            read(site.path("state/other/key")),
            read(site.path("state/audit.log")),
            read(pair.key.clone()),
            read(site.config()),
            read("/etc/passwd".into()),
            read("/etc/ssl".into()),
            read("/root".into()),
            read("/tmp".into()),
            read("/proc/1/cmdline".into()),
            read(format!("/proc/{sibling}/environ").into()),
            read(format!("/proc/{sibling}/maps").into()),
            Takeover::Write(site.path("archive/other/planted")),
            Takeover::Write(site.path("planted")),
            Takeover::Write("/tmp/hl7server-planted".into()),
            Takeover::Write("/dev/shm/hl7server-planted".into()),
            Takeover::Write("/etc/ssl/certs/hl7server-planted.pem".into()),
        ],
    );
    assert!(!site.path("archive/other/planted").exists());
    let mut own: Vec<Takeover> = ["archive/mine", "state/mine", "state/mine/failed", "drop"]
        .into_iter()
        .flat_map(|folder| [read(site.path(folder)), Takeover::Write(site.path(folder).join("own"))])
        .collect();
    let system = ["/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs", "/usr/share/zoneinfo", "/usr/lib"];
    own.extend(system.into_iter().filter(|path| Path::new(path).exists()).map(|path| read(path.into())));
    own.push(Takeover::Resolve("localhost".to_owned()));
    allowed(site, "mine", own);
}

#[test]
fn a_worker_taken_over_connects_only_to_its_peers_ports_and_opens_none() {
    let pair = Pair::start();
    let mut site = Site::new();
    let foreign = TcpListener::bind((Ipv4Addr::LOCALHOST, site.port())).unwrap();
    let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let peer = pair.peer.local_addr().unwrap();
    allowed(&pair.site, "mine", vec![Takeover::Connect(peer)]);
    denied(&pair.site, "mine", vec![Takeover::Listen(at(site.port()))]);
    if landlock_abi(&pair.server, "mine") < 4 {
        return skip("Landlock has no rules for TCP ports before ABI 4 (Linux 6.7)");
    }
    let foreign = foreign.local_addr().unwrap();
    denied(&pair.site, "mine", vec![Takeover::Connect(foreign), Takeover::Connect(at(pair.other_port))]);
    // The other one has no peer at all.
    denied(&pair.site, "other", vec![Takeover::Connect(peer)]);
}

#[test]
fn a_worker_taken_over_touches_no_other_process_and_starts_none() {
    let pair = Pair::start();
    landlock_abi(&pair.server, "mine");
    let sibling = pair.server.worker(pair.other_port);
    let (other, master) = (i64::from(sibling), i64::from(pair.server.pid()));
    let attach = i64::from(libc::PTRACE_ATTACH);
    let own = |number, arguments: &[i64]| call(number, arguments);
    denied(
        &pair.site,
        "mine",
        vec![
            // The control socket, or any other local one.
            own(libc::SYS_socket, &[libc::AF_UNIX.into(), libc::SOCK_STREAM.into()]),
            own(libc::SYS_socket, &[libc::AF_PACKET.into(), libc::SOCK_RAW.into()]),
            own(libc::SYS_kill, &[other, libc::SIGKILL.into()]),
            own(libc::SYS_kill, &[master, libc::SIGKILL.into()]),
            own(libc::SYS_kill, &[-1, libc::SIGKILL.into()]),
            own(libc::SYS_tgkill, &[other, other, libc::SIGKILL.into()]),
            own(libc::SYS_tkill, &[other, libc::SIGKILL.into()]),
            own(libc::SYS_rt_sigqueueinfo, &[other, libc::SIGKILL.into()]),
            own(libc::SYS_pidfd_open, &[other]),
            own(libc::SYS_ptrace, &[attach, other]),
            own(libc::SYS_process_vm_readv, &[other]),
            own(libc::SYS_process_vm_writev, &[other]),
            own(libc::SYS_prlimit64, &[other, libc::RLIMIT_NOFILE.into()]),
            own(libc::SYS_execve, &[]),
            own(libc::SYS_execveat, &[]),
            own(libc::SYS_clone, &[libc::SIGCHLD.into()]),
            own(libc::SYS_unshare, &[libc::CLONE_NEWUSER.into()]),
            own(libc::SYS_setns, &[]),
            own(libc::SYS_mount, &[]),
            own(libc::SYS_chroot, &[]),
            own(libc::SYS_bpf, &[]),
            own(libc::SYS_io_uring_setup, &[1]),
            own(libc::SYS_userfaultfd, &[]),
            own(libc::SYS_keyctl, &[]),
            own(libc::SYS_personality, &[0]),
            own(libc::SYS_setuid, &[0]),
            own(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 1]),
            own(libc::SYS_ioctl, &[2, i64::try_from(libc::TIOCSTI).unwrap()]),
            own(libc::SYS_listen, &[0, 1]),
        ],
    );
    #[cfg(target_arch = "x86_64")]
    denied(&pair.site, "mine", vec![own(libc::SYS_fork, &[]), own(0x4000_0000 | libc::SYS_getpid, &[])]);
    assert_eq!(taken_over(&pair.site, "mine", own(libc::SYS_clone3, &[])), libc::ENOSYS);
    // Its own affairs go on: what it tells itself, threads, TCP.
    allowed(
        &pair.site,
        "mine",
        vec![own(libc::SYS_socket, &[libc::AF_INET.into(), libc::SOCK_STREAM.into()])],
    );
    assert!(process::is_alive(sibling) && process::is_alive(pair.server.pid()));
    assert_eq!(pair.server.worker(pair.other_port), sibling);
}

#[test]
fn a_worker_has_no_privileges_to_gain_no_core_and_nothing_that_was_left_open() {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec 7</etc/hostname; exec \"$0\" run --config \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_hl7server")).arg(site.config()).env("SECRET_OF_THE_SHELL", "x");
    command.env_remove("NOTIFY_SOCKET");
    let server = site.launch(command);
    server.wait_ready();
    let worker = server.worker(port);
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert!(limit("Max open files").parse::<u64>().unwrap() <= 16_384);
    // Nobody but root looks into a process that holds secrets, whoever's it is.
    let environment = fs::read(format!("/proc/{worker}/environ"));
    if !nix::unistd::geteuid().is_root() {
        return assert!(environment.is_err() && fs::read_dir(format!("/proc/{worker}/fd")).is_err());
    }
    let environment = String::from_utf8(environment.unwrap()).unwrap();
    let names = environment.split_terminator('\0').map(|line| line.split('=').next().unwrap());
    names.for_each(|name| assert!(name == "TZ" || name.starts_with("MALLOC_"), "{environment:?}"));
    let open = |pid: u32| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        entries.filter_map(|e| Some(fs::read_link(e.path()).ok()?.to_str()?.to_owned())).collect()
    };
    let hostname = fs::canonicalize("/etc/hostname").unwrap().to_str().unwrap().to_owned();
    assert!(open(server.pid()).contains(&hostname), "the shell left nothing open: the test shows nothing");
    assert!(!open(worker).contains(&hostname), "{:?}", open(worker));
}

#[test]
fn a_drop_folder_made_anew_is_written_by_a_fresh_worker_and_nothing_is_lost() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("oru", port);
    channel["message_types"] = json!({});
    channel["attachment_field"] = json!(PDF_FIELD);
    channel["attachment_format"] = json!("pdf");
    channel["drop_folders"] = json!({"ward": {"path": site.text("ward")}});
    site.configure(json!({"channels": [channel]}));
    let server = site.start();
    Peer::connect(port).exchange(&oru("DOC1", "P1").0).accepts(b"DOC1");
    wait_files(&site.path("ward"), ".pdf", 1);
    let worker = server.worker(port);
    let has_rules = landlock_abi(&server, "oru") > 0;

    fs::remove_dir_all(site.path("ward")).unwrap();
    fs::create_dir(site.path("ward")).unwrap();
    let mut peer = Peer::connect(port);
    peer.exchange(&oru("DOC2", "P1").0).accepts(b"DOC2");
    wait_files(&site.path("ward"), ".pdf", 1);
    server.wait_ready();
    if has_rules {
        assert_ne!(server.worker(port), worker);
        let log = site.log();
        assert!(log.contains("is another than when this worker's sandbox was made"), "{log}");
        assert!(log.contains("ended: exit status 75"), "{log}");
    }
    assert!(site.list(&["failed", "list"]).is_empty());
    // Once, and not again and again.
    let fresh = server.worker(port);
    Peer::connect(port).exchange(&oru("DOC3", "P1").0).accepts(b"DOC3");
    wait_files(&site.path("ward"), ".pdf", 2);
    assert_eq!(server.worker(port), fresh);
}

#[test]
fn a_kernel_with_less_of_landlock_or_none_is_served_and_told_of() {
    if !Trace::is_possible() {
        return;
    }
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    let server = site.start();
    let without = "no Landlock, seccomp";
    for (n, (answer, level, warning)) in [
        // A kernel that was built without it, one that was booted without it, Debian 12's: the version is asked for first.
        ("error=ENOSYS", without, "WARN  adt: no Landlock here (not in this kernel)"),
        ("error=EOPNOTSUPP", without, "WARN  adt: no Landlock here (switched off when the kernel started)"),
        ("retval=2:when=1", "Landlock ABI 2 (files), seccomp", ""),
    ]
    .into_iter()
    .enumerate()
    {
        if answer.starts_with("retval") && landlock_abi(&server, "adt") < 3 {
            skip("this kernel has no more than ABI 2 to begin with");
            continue;
        }
        let output = site.path(&format!("strace{n}"));
        let inject = format!("inject=landlock_create_ruleset:{answer}");
        let options = ["-e", "trace=landlock_create_ruleset", "-e", &inject];
        let Some(trace) = Trace::attach(server.pid(), &output, &options) else { return };
        let (worker, logged) = (server.worker(port), site.log().len());
        process::signal(worker, nix::sys::signal::Signal::SIGTERM);
        within(PATIENCE, "a fresh worker on the lesser kernel", || {
            let fresh = server.worker(port) != worker;
            let told = server.channel("adt")["status"]["sandbox"] == level;
            (fresh && told).then_some(())
        });
        assert!(trace.lines().iter().any(|line| line.contains("(INJECTED")), "{:?}", trace.lines());
        let log = site.log().split_off(logged);
        assert!(log.contains(&format!("sandbox: {level}")), "{log}");
        assert!(log.contains(warning), "{log}");
        let id = format!("LESS{n}");
        Peer::connect(port).exchange(&adt(&id, "P1")).accepts(id.as_bytes());
        wait_files(&site.path("archive/adt"), ".hl7", n + 1);
        drop(trace);
        // The next one has the kernel as it is.
        process::signal(server.worker(port), nix::sys::signal::Signal::SIGTERM);
        within(PATIENCE, "all of it again", || {
            let channel = server.channel("adt");
            let sandbox = channel["status"]["sandbox"].as_str().filter(|now| !now.is_empty())?;
            (sandbox != level).then_some(())
        });
    }
}

#[test]
fn workers_of_a_server_that_runs_as_root_run_as_user_and_group() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root starts workers as somebody else");
    }
    let mut site = Site::new();
    let port = site.port();
    fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    let user = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
    let channel = site.store_channel("adt", port);
    site.configure(json!({"channels": [channel]}));
    let mut server = site.start();
    assert!(site.log().contains("the workers run as root"), "{}", site.log());
    Peer::connect(port).exchange(&adt("AS-ROOT", "P1")).accepts(b"AS-ROOT");
    wait_files(&site.path("archive/adt"), ".hl7", 1);
    server.stop();

    // The archive is the operator's to give away; the state is ours.
    let given = std::process::Command::new("chown").args(["-R", "nobody"]).arg(site.path("archive")).status();
    assert!(given.unwrap().success());
    chown(site.path("archive"), Some(user.uid.as_raw()), None).unwrap();
    site.configure(json!({"channels": [channel], "user": "nobody", "group": "daemon"}));
    server.start_again(&site);
    let worker = server.worker(port);
    let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(|id| id.parse().unwrap()).collect()
    };
    assert_eq!(ids("Uid:"), [user.uid.as_raw(); 4]);
    assert_eq!(ids("Gid:"), [group.gid.as_raw(); 4]);
    assert!(!ids("Groups:").contains(&0), "root's groups are left: {status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    Peer::connect(port).exchange(&adt("AS-NOBODY", "P1")).accepts(b"AS-NOBODY");
    let files = wait_files(&site.path("archive/adt"), ".hl7", 2);
    let owner = fs::metadata(&files[1].0).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (user.uid.as_raw(), group.gid.as_raw()));
    let state = fs::metadata(site.path("state/adt")).unwrap();
    assert_eq!(
        (state.uid(), state.gid(), state.mode() & 0o777),
        (user.uid.as_raw(), group.gid.as_raw(), 0o750)
    );
    assert_eq!(fs::metadata(site.path("state/audit.log")).unwrap().uid(), 0);
    // A worker that dies is followed by one of the same user.
    process::kill(worker);
    within(PATIENCE, "another worker", || process::worker_of(port).filter(|pid| *pid != worker));
    server.wait_ready();
    Peer::connect(port).exchange(&adt("AGAIN", "P1")).accepts(b"AGAIN");
    wait_files(&site.path("archive/adt"), ".hl7", 3);
    server.stop();

    site.configure(json!({"channels": [channel], "user": "no-such-user-here"}));
    let ran = site.run(&["run"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    assert!(ran.said().contains("no user \"no-such-user-here\""), "{ran:?}");
}
