//! `retention_days`: what is old goes, what waits or is not ours stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use support::messages::adt;
use support::mllp::Peer;
use support::{PATIENCE, Site, within};

#[test]
fn old_folders_of_the_archive_go_and_nothing_else() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["local_archive"]["retention_days"] = json!(30);
    site.configure(json!({"channels": [channel]}));
    let archive = site.path("archive/adt");
    let put = |name: &str| {
        fs::create_dir_all(archive.join(name)).unwrap();
        fs::write(archive.join(name).join("20200101T000000.000000_X.hl7"), "MSH|").unwrap();
    };
    for name in ["2020/01/01", "2020/01/02", "2020/02/01/kept", "notes/01/01", "2020/13/01"] {
        put(name);
    }
    fs::create_dir_all(site.path("elsewhere/01")).unwrap();
    fs::write(site.path("elsewhere/01/mine.hl7"), "x").unwrap();
    symlink(site.path("elsewhere"), archive.join("2020/03")).unwrap();
    let _server = site.start();
    Peer::connect(port).exchange(&adt("NEW", "1")).accepts(b"NEW");
    within(PATIENCE, "January 2020 goes", || (!archive.join("2020/01").exists()).then_some(()));
    for name in ["2020/02/01/kept", "notes/01/01", "2020/13/01"] {
        assert!(archive.join(name).join("20200101T000000.000000_X.hl7").exists(), "{name}");
    }
    assert!(site.path("elsewhere/01/mine.hl7").exists());
    within(PATIENCE, "the new message stays", || {
        (!support::files(&archive, "_NEW.hl7").is_empty()).then_some(())
    });
    assert!(site.log().contains("with 1 files, older than 30 days"), "the log says what went");
}

#[test]
fn old_failed_messages_are_discarded_and_new_ones_stay() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["mapping"] = json!({"visit": "PV1.1.19"});
    site.configure(json!({"channels": [channel.clone()]}));
    let mut server = site.start();
    let mut peer = Peer::connect(port);
    peer.exchange(&adt("F1", "1")).accepts(b"F1");
    peer.exchange(&adt("F2", "1")).accepts(b"F2");
    let failed = || site.list(&["failed", "list"]);
    within(PATIENCE, "both failed", || (failed().len() == 2).then_some(()));
    server.stop();
    // F1 failed ten days ago, as its id and its file say.
    let folder = site.path("state/adt/failed");
    let old = "00000000000000000001";
    let first =
        failed().into_iter().find(|f| f["control_id"] == "F1").unwrap()["id"].as_str().unwrap().to_owned();
    let json_file = folder.join(format!("{first}.json"));
    let mut record: Value = serde_json::from_slice(&fs::read(&json_file).unwrap()).unwrap();
    record["id"] = json!(old);
    record["failed_us"] = json!(record["failed_us"].as_i64().unwrap() - 10 * 86_400_000_000);
    fs::rename(folder.join(format!("{first}.hl7")), folder.join(format!("{old}.hl7"))).unwrap();
    fs::write(folder.join(format!("{old}.json")), record.to_string()).unwrap();
    fs::remove_file(json_file).unwrap();
    fs::write(site.path(&format!("state/adt/quarantine/{old}_partial.bin")), "x").unwrap();
    channel["retention_days"] = json!({"failed": 7, "quarantine": 7});
    site.configure(json!({"channels": [channel]}));
    server.start_again(&site);
    within(PATIENCE, "the old one goes", || (failed().len() == 1).then_some(()));
    assert_eq!(failed()[0]["control_id"], "F2");
    let quarantined = site.path(&format!("state/adt/quarantine/{old}_partial.bin"));
    within(PATIENCE, "the quarantined bytes go", || (!quarantined.exists()).then_some(()));
    assert!(site.log().contains(&format!("id={old} outcome=discarded")), "the log names it");
}

#[test]
fn a_format_that_tells_no_day_cannot_be_pruned() {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["local_archive"] = json!({"path": site.text("a"), "format": "%Y/%H%M", "retention_days": 3});
    site.configure(json!({"channels": [channel]}));
    let ran = site.run(&["check"]);
    assert_eq!(ran.code, Some(78), "{ran:#?}");
    assert!(ran.said().contains("not told apart by day or hour"), "{ran:#?}");
}
