//! A dead local folder holds back its own step and nothing else, and what it held back goes on by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use support::messages::{self, PDF_FIELD, adt};
use support::mllp::Peer;
use support::{PATIENCE, Server, Site, files, wait_files, within};

/// How long the rest must have gone on past the dead folder for "it holds back nothing else" to mean something.
const MEANWHILE: Duration = Duration::from_secs(3);

/// A site with a `document` channel, `oru`, that archives and drops into `good` and `bad`.
fn two_folders(site: &mut Site) -> u16 {
    let port = site.port();
    site.configure(json!({"channels": [channel(site, port)]}));
    port
}

fn channel(site: &Site, port: u16) -> Value {
    let mut channel = site.store_channel("oru", port);
    channel["message_types"] = json!({"ADT^A01": "store"});
    channel["attachment_field"] = json!(PDF_FIELD);
    channel["attachment_format"] = json!("pdf");
    channel["local_archive"]["attachment"] = json!(site.text("attachments"));
    channel["drop_folders"] = json!({"good": {"path": site.text("good")}, "bad": {"path": site.text("bad")}});
    channel
}

/// Sends messages while `bad` is dead, heals it, and checks all of them everywhere.
#[track_caller]
fn holds_back_only_its_own_step(site: &Site, server: &Server, port: u16, heal: impl FnOnce()) {
    let messages: Vec<_> =
        (0..6).map(|n| messages::oru(&format!("DOC{n}"), &format!("P{}", n % 2))).collect();
    let mut peer = Peer::connect(port);
    for (n, (body, _)) in messages.iter().enumerate() {
        peer.exchange(body).accepts(format!("DOC{n}").as_bytes());
    }
    let everywhere =
        |folder: &str, suffix: &str| wait_files(&server.seen(&site.path(folder)), suffix, messages.len());
    everywhere("archive/oru", ".hl7");
    everywhere("attachments", ".pdf");
    everywhere("good", ".pdf");
    assert_eq!(files(&server.seen(&site.path("bad")), ".pdf"), []);

    // The dead folder's step waits, says for what, and a message that does not need it goes by.
    let queue = within(PATIENCE, "all of them wait", || {
        let queue = site.list(&["queue", "list"]);
        (queue.len() == messages.len()).then_some(queue)
    });
    for entry in &queue {
        assert!(
            entry["step"].as_str().is_some_and(|step| step.contains("bad")),
            "does not name the folder: {entry:#}"
        );
    }
    peer.exchange(&adt("BESIDE", "P0")).accepts(b"BESIDE");
    wait_files(&server.seen(&site.path("archive/oru")), ".hl7", messages.len() + 1);
    server.wait_count("oru", "waiting", messages.len() as u64);
    let failed = site.list(&["failed", "list"]);
    assert!(failed.is_empty(), "a fault that may pass has failed: {failed:#?}");
    let worker = server.worker(port);

    heal();
    let healed = Instant::now();
    let dropped = everywhere("bad", ".pdf");
    eprintln!("healed after {:?}", healed.elapsed());
    for (_, pdf) in &messages {
        assert_eq!(dropped.iter().filter(|(_, bytes)| bytes == pdf).count(), 1);
    }
    within(PATIENCE, "nothing waits any more", || (server.count("oru", "waiting") == 0).then_some(()));
    for (folder, suffix, count) in [
        ("archive/oru", ".hl7", messages.len() + 1),
        ("attachments", ".pdf", 6),
        ("good", ".pdf", 6),
        ("bad", "", 6),
    ] {
        let found = files(&server.seen(&site.path(folder)), suffix);
        assert_eq!(
            found.len(),
            count,
            "{folder}: {:?}",
            found.iter().map(|(path, _)| path).collect::<Vec<_>>()
        );
    }
    // A folder that is another one now is out of the sandbox of the worker that found it so; the next one has it in its own.
    if server.worker(port) != worker {
        assert!(
            site.log().contains("is another than when this worker's sandbox was made"),
            "the worker was restarted"
        );
    }
}

#[test]
fn a_file_in_the_way_of_a_drop_folder_holds_back_only_its_own_step() {
    let mut site = Site::new();
    let port = two_folders(&mut site);
    fs::write(site.path("bad"), b"in the way").unwrap();
    let server = site.start();
    holds_back_only_its_own_step(&site, &server, port, || fs::remove_file(site.path("bad")).unwrap());
}

#[test]
fn a_read_only_drop_folder_holds_back_only_its_own_step() {
    let mut site = Site::new();
    let port = two_folders(&mut site);
    let bad = site.path("bad");
    fs::create_dir(&bad).unwrap();
    let Some(server) = site.start_prepared(&mount(&bad, "size=4m,ro")) else { return };
    let heal = format!("mount -o remount,rw '{}'", bad.display());
    holds_back_only_its_own_step(&site, &server, port, || server.inside(&heal));
}

#[test]
fn a_full_drop_folder_holds_back_only_its_own_step_and_shows_no_part_of_a_file() {
    let mut site = Site::new();
    let port = two_folders(&mut site);
    let bad = site.path("bad");
    fs::create_dir(&bad).unwrap();
    // One page, taken by a file of ours: there is room for names and for nothing in them.
    let fill = format!("{}; head -c 4096 /dev/zero >'{}/.ballast'", mount(&bad, "size=4k"), bad.display());
    let Some(server) = site.start_prepared(&fill) else { return };
    let heal = format!("rm '{0}/.ballast'; mount -o remount,size=4m '{0}'", bad.display());
    holds_back_only_its_own_step(&site, &server, port, || server.inside(&heal));
}

#[test]
fn a_full_archive_holds_back_what_it_must_and_heals_by_itself() {
    let mut site = Site::new();
    let port = two_folders(&mut site);
    let archive = site.path("archive");
    fs::create_dir(&archive).unwrap();
    let Some(server) = site.start_prepared(&mount(&archive, "size=4m,ro")) else { return };
    let (body, pdf) = messages::oru("DOC", "P1");
    Peer::connect(port).exchange(&body).accepts(b"DOC");
    assert_eq!(wait_files(&site.path("good"), ".pdf", 1)[0].1, pdf);
    server.inside(&format!("mount -o remount,rw '{}'", archive.display()));
    assert_eq!(wait_files(&server.seen(&archive), ".hl7", 1)[0].1, body);
    within(PATIENCE, "nothing waits any more", || (server.count("oru", "waiting") == 0).then_some(()));
}

#[test]
fn a_folder_dead_for_too_long_fails_its_step_alone_and_a_retry_by_hand_delivers_it() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = channel(&site, port);
    channel["retry"] = json!({"first": "0.1s", "longest": "0.2s", "give_up": "1s"});
    site.configure(json!({"channels": [channel]}));
    fs::write(site.path("bad"), b"in the way").unwrap();
    let server = site.start();
    let (body, pdf) = messages::oru("DOC", "P1");
    let id = Peer::connect(port).exchange(&body).message_id();

    let failed =
        within(PATIENCE, "the message has failed", || site.list(&["failed", "list"]).first().cloned());
    let text = failed.to_string();
    assert!(text.contains(&id) && text.contains("bad"), "names neither message nor folder: {text}");
    let shown = site.run(&["failed", "show", &id]).good();
    assert!(shown.stdout.contains("bad"), "{shown:#?}");
    assert_eq!(
        wait_files(&site.path("state/oru/failed"), ".hl7", 1)[0].1,
        body,
        "the failed message is kept as it came"
    );
    assert_eq!(wait_files(&site.path("good"), ".pdf", 1).len(), 1);
    server.wait_count("oru", "failed_now", 1);

    // As long as the folder is dead a retry fails again, and nothing is lost by it.
    site.run(&["failed", "retry", &id]).good();
    within(PATIENCE, "the message is back among the failed", || {
        (site.list(&["failed", "list"]).len() == 1).then_some(())
    });

    fs::remove_file(site.path("bad")).unwrap();
    site.run(&["failed", "retry", &id]).good();
    assert_eq!(wait_files(&site.path("bad"), ".pdf", 1)[0].1, pdf);
    within(PATIENCE, "nothing is left among the failed", || {
        let listed = site.list(&["failed", "list"]).len();
        (listed + files(&site.path("state/oru/failed"), "").len() == 0).then_some(())
    });
    // The steps that were done are not repeated.
    assert_eq!(files(&site.path("good"), ".pdf").len(), 1);
    assert_eq!(files(&site.path("archive/oru"), ".hl7").len(), 1);
}

#[test]
fn a_failed_message_is_discarded_by_hand() {
    let mut site = Site::new();
    let port = two_folders(&mut site);
    let server = site.start();
    let without = messages::typed("ORU^R01^ORU_R01", "NOPDF", "P1");
    let id = Peer::connect(port).exchange(&without).message_id();
    wait_files(&site.path("state/oru/failed"), ".hl7", 1);
    site.run(&["failed", "discard", &id]).good();
    within(PATIENCE, "nothing is left among the failed", || {
        site.list(&["failed", "list"]).is_empty().then_some(())
    });
    assert_eq!(files(&site.path("state/oru/failed"), ""), []);
    drop(server);
    // What was discarded stays so after a restart.
    let _server = site.start();
    assert_eq!(site.list(&["failed", "list"]), Vec::<Value>::new());
}

#[test]
fn messages_that_wait_for_a_folder_survive_a_restart() {
    let mut site = Site::new();
    let port = two_folders(&mut site);
    fs::write(site.path("bad"), b"in the way").unwrap();
    let mut server = site.start();
    let (body, pdf) = messages::oru("DOC", "P1");
    Peer::connect(port).exchange(&body).accepts(b"DOC");
    wait_files(&site.path("good"), ".pdf", 1);
    server.stop();
    server.start_again(&site);
    server.wait_count("oru", "waiting", 1);
    std::thread::sleep(MEANWHILE / 3);
    fs::remove_file(site.path("bad")).unwrap();
    assert_eq!(wait_files(&site.path("bad"), ".pdf", 1)[0].1, pdf);
    assert_eq!(files(&site.path("good"), ".pdf").len(), 1, "a step already done was repeated");
    assert_eq!(files(&site.path("archive/oru"), ".hl7").len(), 1, "a step already done was repeated");
}

#[test]
fn a_name_a_sender_chose_stays_inside_its_folder_and_replaces_nothing() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = channel(&site, port);
    channel["patient_id_field"] = json!("PID.1.3.1");
    site.configure(json!({"channels": [channel]}));
    let _server = site.start();
    let mut peer = Peer::connect(port);
    // Two messages that want the same names, one of them out of its folder; a symbolic link where the first would go.
    let (first, first_pdf) = messages::oru("../../../ID", "../../../../etc/passwd");
    let mut second = first.clone();
    second.extend_from_slice(b"NTE|1||another\r");
    let outside = site.path("outside");
    fs::write(&outside, b"untouched").unwrap();
    peer.exchange(&first).accepts(b"../../../ID");
    let one = wait_files(&site.path("good"), ".pdf", 1);
    peer.exchange(&second).accepts(b"../../../ID");
    wait_files(&site.path("archive/oru"), ".hl7", 2);
    wait_files(&site.path("attachments"), ".pdf", 1);
    for (path, _) in files(&site.path("good"), ".pdf").iter().chain(&files(&site.path("archive"), ".hl7")) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && !name.starts_with('.'),
            "{name}"
        );
    }
    assert_eq!(one[0].1, first_pdf);

    // A link planted under the next name is not followed.
    let (third, third_pdf) = messages::oru("LINKED", "P1");
    let planned = one[0].0.with_file_name("P1_LINKED.pdf");
    std::os::unix::fs::symlink(&outside, &planned).unwrap();
    peer.exchange(&third).accepts(b"LINKED");
    within(PATIENCE, "the third document under a name of its own", || {
        let found = files(&site.path("good"), ".pdf");
        found.iter().any(|(path, bytes)| *path != planned && *bytes == third_pdf).then_some(())
    });
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
}

fn mount(folder: &Path, options: &str) -> String {
    format!("mount -t tmpfs -o {options},mode=0777 tmpfs '{}'", folder.display())
}
