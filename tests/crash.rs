//! What is acknowledged survives: kills of worker and master under load, a flush that fails, a full disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::dice::Dice;
use support::load::{Load, assert_archived_once};
use support::mllp::{Acknowledgment, Peer, Reply, frame};
use support::trace::Trace;
use support::{ANSWER, PATIENCE, Server, Site, files, messages, process, wait_files, within};

const KILLS: usize = 20;

#[test]
fn a_worker_killed_20_times_under_load_loses_and_doubles_nothing() {
    kill_under_load(|server, site, port, round| {
        process::kill(server.worker(port));
        // A worker that keeps dying is started later and later; a fresh master starts that over.
        if round % 4 == 3 {
            server.stop();
            server.start_again(site);
        }
    });
}

#[test]
fn a_master_killed_20_times_under_load_loses_and_doubles_nothing() {
    kill_under_load(|server, site, _, _| {
        server.kill();
        server.start_again(site);
    });
}

#[test]
fn a_master_and_its_worker_killed_20_times_under_load_lose_and_double_nothing() {
    kill_under_load(|server, site, port, round| {
        let worker = server.worker(port);
        if round % 2 == 0 {
            process::kill(worker);
            server.kill();
        } else {
            server.kill();
            process::kill(worker);
        }
        server.start_again(site);
    });
}

fn kill_under_load(strike: impl Fn(&mut Server, &Site, u16, usize)) {
    let (site, port) = one_channel();
    let mut server = site.start();
    let mut dice = Dice::thrown();
    let load = Load::start(port, 16);
    for round in 0..KILLS {
        // More than the 16 that may still be under way from before the last kill.
        load.wait_for_more(20 + dice.below(300));
        std::thread::sleep(Duration::from_micros(dice.below(3000) as u64));
        strike(&mut server, &site, port, round);
    }
    load.wait_for_more(50);
    let acknowledged = load.finish();
    within(PATIENCE * 2, "nothing waits any more", || (server.count("adt", "waiting") == 0).then_some(()));
    let failed = site.list(&["failed", "list"]);
    assert!(failed.is_empty(), "a kill failed {} innocent messages: {:#}", failed.len(), failed[0]);
    assert_archived_once(&acknowledged, &site.path("archive/adt"));
    eprintln!("{} messages, {KILLS} kills, seed {}", acknowledged.len(), dice.seed);
}

#[test]
fn a_message_written_but_not_flushed_when_its_worker_died_is_not_acknowledged_before_a_flush() {
    if !Trace::is_possible() {
        return;
    }
    for attempt in 0..5 {
        if unflushed_message_is_flushed_first(attempt) {
            return;
        }
        // Something else was flushed at that moment, and the worker died before it wrote the message.
    }
    panic!("in five attempts the worker was never killed between the write of a message and its flush");
}

/// Returns false when the kill came at another flush than that of the message.
fn unflushed_message_is_flushed_first(attempt: usize) -> bool {
    let (site, port) = one_channel();
    let server = site.start();
    Peer::connect(port).exchange(&messages::adt("BEFORE", "P1")).accepts(b"BEFORE");
    server.wait_count("adt", "delivered", 1);

    // The first tracer kills the worker as it enters its next flush; the second watches the worker that follows.
    let (doomed, kills) = (server.worker(port), site.path("kills"));
    let watch = ["-e", "trace=fdatasync,fsync,sync_file_range,msync,write,writev,sendto,sendmsg"];
    let Some(watched) = Trace::attach(server.pid(), &site.path("watched"), &watch) else { return true };
    let flushes = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:signal=KILL:when=1"];
    let Some(_killer) = Trace::attach(doomed, &kills, &flushes) else { return true };

    let body = messages::adt(&format!("UNFLUSHED{attempt}"), "P1");
    let mut peer = Peer::connect(port);
    peer.send(&body);
    assert_eq!(peer.receive(ANSWER), Reply::Closed, "acknowledged although its worker died before the flush");
    let journal = site.path("state/adt/journal");
    let Some(segment) = holding(&journal, &body) else { return false };

    let mut peer = Peer::connect(port);
    let control_id = format!("UNFLUSHED{attempt}");
    peer.exchange(&body).accepts(control_id.as_bytes());
    assert_ne!(server.worker(port), doomed, "it was not the worker that was killed");

    let answer = format!("MSA|AA|{control_id}");
    let lines = within(PATIENCE, "the acknowledgment in the trace", || {
        let lines = watched.lines();
        lines.iter().any(|line| line.contains(&answer)).then_some(lines)
    });
    let answered = lines.iter().position(|line| line.contains(&answer)).unwrap();
    // The tail may have been copied to another segment, and that one flushed.
    let homes: Vec<PathBuf> = holding_all(&journal, &body).into_iter().chain([segment]).collect();
    let flushed = flushes_done(&lines[..answered], &homes);
    assert!(
        flushed > 0,
        "acknowledged without a flush of {homes:?} by the new worker:\n{}",
        lines.join("\n")
    );

    let sent = [("BEFORE".to_owned(), messages::adt("BEFORE", "P1")), (control_id, body)];
    assert_archived_once(&sent.into(), &site.path("archive/adt"));
    true
}

#[test]
fn a_flush_that_fails_acknowledges_nothing_and_starts_the_worker_afresh() {
    if !Trace::is_possible() {
        return;
    }
    let (site, port) = one_channel();
    let server = site.start();
    Peer::connect(port).exchange(&messages::adt("BEFORE", "P1")).accepts(b"BEFORE");
    server.wait_count("adt", "delivered", 1);

    let (worker, body) = (server.worker(port), messages::adt("EIO", "P1"));
    let inject = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO:when=1+"];
    let Some(failing) = Trace::attach(worker, &site.path("flushes"), &inject) else { return };
    let mut peer = Peer::connect(port);
    peer.send(&body);
    assert_eq!(peer.receive(ANSWER), Reply::Closed, "acknowledged on a flush that failed");
    within(PATIENCE, "the worker with the poisoned journal is gone", || {
        (!process::is_alive(worker)).then_some(())
    });
    drop(failing);

    Peer::connect(port).exchange(&body).accepts(b"EIO");
    let sent = [("BEFORE".to_owned(), messages::adt("BEFORE", "P1")), ("EIO".to_owned(), body)];
    assert_archived_once(&sent.into(), &site.path("archive/adt"));
}

#[test]
fn a_full_disk_is_answered_with_silence_and_heals_by_itself() {
    let (site, port) = one_channel();
    let state = site.path("state");
    fs::create_dir(&state).unwrap();
    let mount = format!("mount -t tmpfs -o size=64m,mode=0755 tmpfs '{}'", state.display());
    let Some(server) = site.start_prepared(&mount) else { return };
    let worker = server.worker(port);
    Peer::connect(port).exchange(&messages::adt("BEFORE", "P1")).accepts(b"BEFORE");

    let ballast = server.seen(&state.join("ballast"));
    fill(&ballast);
    // Large enough not to fit into what the journal keeps ready.
    let body = messages::adt_of(4 << 20, "FULL");
    let mut peer = Peer::connect(port);
    peer.send(&body);
    assert_eq!(peer.receive(ANSWER), Reply::Closed, "answered without room for it");
    // Not even a small one; its connection may wait unaccepted.
    let mut peer = Peer::connect(port);
    peer.send(&messages::adt("SMALL", "P1"));
    let heard = peer.receive(Duration::from_secs(2));
    assert!(!matches!(heard, Reply::Frame(_)), "answered without room for it: {heard:?}");
    drop(peer);

    fs::remove_file(&ballast).unwrap();
    within(PATIENCE, "the message is acknowledged now that there is room", || {
        let mut peer = Peer::try_connect(port).ok()?;
        peer.send_raw(&frame(&body)).ok()?;
        match peer.receive(Duration::from_secs(2)) {
            Reply::Frame(answer) => {
                Acknowledgment::parse(&answer).accepts(b"FULL");
                Some(())
            }
            Reply::Closed | Reply::Silence => None,
        }
    });
    assert_eq!(server.worker(port), worker, "a full disk needs no restart");
    // Three: the small one had waited in the connection's queue.
    let archived = wait_files(&site.path("archive/adt"), ".hl7", 3);
    assert_eq!(archived.iter().filter(|(_, bytes)| *bytes == body).count(), 1);
}

fn one_channel() -> (Site, u16) {
    let mut site = Site::new();
    let port = site.port();
    site.configure(json!({"channels": [site.store_channel("adt", port)]}));
    (site, port)
}

/// The first file of a journal that holds these bytes.
fn holding(journal: &Path, bytes: &[u8]) -> Option<PathBuf> {
    holding_all(journal, bytes).into_iter().next()
}

fn holding_all(journal: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let holds = |content: &[u8]| content.windows(bytes.len()).any(|window| window == bytes);
    files(journal, "").into_iter().filter(|(_, content)| holds(content)).map(|(path, _)| path).collect()
}

/// How many flushes of one of these files have ended well in lines of `strace -f -y`, where a call that another thread
/// interrupted stands on two lines.
fn flushes_done(lines: &[String], homes: &[PathBuf]) -> usize {
    let mut under_way: Vec<&str> = Vec::new();
    let mut done = 0;
    for line in lines {
        let pid = line.split_whitespace().next().unwrap_or_default();
        let ours = homes.iter().any(|home| line.contains(&format!("<{}>", home.display())));
        let good = line.ends_with(" = 0");
        if line.contains("sync(") && ours {
            if good {
                done += 1;
            } else if line.contains("<unfinished") {
                under_way.push(pid);
            }
        } else if line.contains("sync resumed>") && good && under_way.contains(&pid) {
            under_way.retain(|other| *other != pid);
            done += 1;
        }
    }
    done
}

/// Writes a file until the file system takes no more.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        if file.write_all(&vec![b'x'; size]).is_err() {
            size /= 2;
        }
    }
}

#[test]
fn flushes_are_counted_in_a_trace() {
    let lines: Vec<String> = [
        "10 write(5</j/1>, \"x\", 1) = 1",
        "10 fdatasync(5</j/1> <unfinished ...>",
        "11 fdatasync(6</j/2>) = 0",
        "10 <... fdatasync resumed>) = 0",
        "12 fdatasync(5</j/1>) = -1 EIO (Input/output error)",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(flushes_done(&lines, &["/j/1".into()]), 1);
    assert_eq!(flushes_done(&lines[..2], &["/j/1".into()]), 0);
}
