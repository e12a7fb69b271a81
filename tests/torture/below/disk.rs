//! The disk: full of bytes or of names and empty again, slow, and read-only from one moment to the next.

use crate::ledger::Ledger;
use crate::senders::{Senders, Stream};
use crate::support::trace::Trace;
use crate::support::{PATIENCE, Server, Site, process, skip, within};
use crate::verdict::{Checker, drained};
use crate::ward;
use crate::{count, is_long};
use serde_json::json;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server whose journal and archive lie on one disk of its own, with senders at work.
struct Load {
    server: Server,
    port: u16,
    ledger: Arc<Ledger>,
    senders: Senders,
    // Last, so that it is there while the others end.
    site: Site,
}

const DISK: &str = "disk";

fn site() -> (Site, u16) {
    let mut site = Site::new();
    let port = site.port();
    let mut channel = site.store_channel("adt", port);
    channel["local_archive"]["path"] = json!(site.text("disk/archive"));
    channel["retry"] = json!({"first": 0.1, "longest": 0.5, "give_up": "1h"});
    site.configure(json!({"state_path": site.text("disk/state"), "channels": [channel]}));
    std::fs::create_dir(site.path(DISK)).unwrap();
    (site, port)
}

impl Load {
    fn start(site: Site, port: u16, server: Server, connections: usize) -> Load {
        let ledger = Arc::new(Ledger::new(&site.path("ledger.jsonl")));
        // What comes must not fill the disk by itself.
        let pause = Duration::from_millis(20);
        let stream = Stream { channel: "adt", port, senders: connections, window: 1, pause, make: ward::adt };
        let senders = Senders::start(&ledger, &[stream]);
        Load { server, port, ledger, senders, site }
    }

    fn on_tmpfs(options: &str, connections: usize) -> Option<Load> {
        let (site, port) = site();
        let mount = format!("mount -t tmpfs -o mode=0755,{options} tmpfs '{}'", site.text(DISK));
        let server = site.start_prepared(&mount)?;
        Some(Load::start(site, port, server, connections))
    }

    fn seen(&self, name: &str) -> PathBuf {
        self.server.seen(&self.site.path(&format!("disk/{name}")))
    }

    #[track_caller]
    fn end(self) {
        self.senders.finish();
        drained(&self.site, PATIENCE * 2);
        let archive = self.server.seen(&self.site.path("disk/archive"));
        let verdict =
            Checker::of(&self.ledger).messages("adt/archive", &archive).listed(&self.site).balances();
        eprintln!("TORTURE disk: {} acknowledged, none lost", verdict.number("acknowledged"));
    }
}

#[test]
fn a_disk_that_is_full_again_and_again_heals_without_a_restart() {
    let Some(load) = Load::on_tmpfs("size=128m", 6) else { return };
    let worker = load.server.worker(load.port);
    for round in 0..count("FULL_DISKS", 2, 20) {
        load.senders.wait_for_more(50);
        let ballast = load.seen("ballast");
        load.server.inside(&format!("cat /dev/zero >'{}/ballast' 2>/dev/null || true", load.site.text(DISK)));
        // Until no more is acknowledged: what the journal has ready may take some.
        let mut last = load.ledger.acknowledged();
        within(PATIENCE, "nothing more is acknowledged", || {
            std::thread::sleep(Duration::from_millis(500));
            let now = load.ledger.acknowledged();
            let still = now == last;
            last = now;
            still.then_some(())
        });
        std::fs::remove_file(ballast).unwrap();
        let begun = Instant::now();
        load.senders.wait_for_more(20);
        eprintln!("round {round}: healed after {:?}", begun.elapsed());
    }
    assert_eq!(load.server.worker(load.port), worker, "a full disk needs no restart");
    load.end();
}

#[test]
fn a_disk_without_names_left_heals_without_a_restart() {
    let Some(load) = Load::on_tmpfs("size=128m,nr_inodes=20000", 4) else { return };
    let worker = load.server.worker(load.port);
    for _ in 0..count("FULL_DISKS", 1, 10) {
        load.senders.wait_for_more(20);
        let fill = "mkdir names; cd names; seq 99999 | xargs touch 2>/dev/null || true";
        load.server.inside(&format!("cd '{}'; {fill}", load.site.text(DISK)));
        // Archiving waits; receiving goes on as long as no new segment is needed.
        std::thread::sleep(Duration::from_secs(1));
        load.server.inside(&format!("rm -r '{}/names'", load.site.text(DISK)));
        load.senders.wait_for_more(20);
    }
    assert_eq!(load.server.worker(load.port), worker, "a disk without names needs no restart");
    load.end();
}

#[test]
fn a_slow_disk_delays_answers_and_shares_its_flushes() {
    if !Trace::is_possible() {
        return;
    }
    const SENDERS: usize = 16;
    let (site, port) = site();
    let server = site.start();
    let load = Load::start(site, port, server, SENDERS);
    load.senders.wait_for_more(50);
    let worker = load.server.worker(port);
    let flush = Duration::from_millis(200);
    let delay = format!("inject=fdatasync:delay_enter={}", flush.as_micros());
    let Some(slow) =
        Trace::attach(worker, &load.site.path("trace"), &["-e", "trace=fdatasync", "-e", &delay])
    else {
        load.senders.abandon();
        return;
    };
    load.senders.wait_for_more(SENDERS);
    let (begun, before) = (Instant::now(), load.ledger.acknowledged());
    std::thread::sleep(flush * count("FLUSHES", 15, 150) as u32);
    let (flushes, acknowledged) =
        (begun.elapsed().as_secs_f64() / flush.as_secs_f64(), load.ledger.acknowledged() - before);
    drop(slow);
    eprintln!("TORTURE slow disk: {acknowledged} messages in the time of {flushes:.0} flushes");
    assert!(acknowledged as f64 > flushes * 3.0, "{acknowledged} messages in {flushes} flushes share none");
    assert!(
        (acknowledged as f64) < flushes * (SENDERS + 2) as f64,
        "more answers than flushes can have covered"
    );
    assert_eq!(load.server.worker(port), worker);
    load.end();
}

#[test]
fn a_flush_that_takes_40_seconds_is_no_reason_to_kill_the_worker() {
    if !is_long() || !Trace::is_possible() {
        return;
    }
    let (site, port) = site();
    let server = site.start();
    let load = Load::start(site, port, server, 4);
    load.senders.wait_for_more(20);
    let worker = load.server.worker(port);
    let delay = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=40000000:when=1"];
    let Some(slow) = Trace::attach(worker, &load.site.path("trace"), &delay) else { return };
    std::thread::sleep(Duration::from_secs(45));
    load.senders.wait_for_more(20);
    drop(slow);
    assert_eq!(load.server.worker(port), worker, "the event loop has not stalled");
    load.end();
}

/// An image with a file system, mounted by root; unmounted and gone when dropped.
struct Image {
    folder: PathBuf,
    image: PathBuf,
}

impl Image {
    /// `None`, and a line that says so, where this user may not mount.
    fn mount(site: &Site) -> Option<Image> {
        let this = Image { folder: site.path(DISK), image: site.path("disk.img") };
        let file = std::fs::File::create(&this.image).unwrap();
        file.set_len(96 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&this.image).status();
        if !made.is_ok_and(|status| status.success()) || !this.mount_again() {
            skip("no mkfs.ext4, or no right to mount a loop device");
            return None;
        }
        Some(this)
    }

    fn mount_again(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]).arg(&self.image).arg(&self.folder);
        mount.status().is_ok_and(|status| status.success())
    }

    /// Where the kernel takes the news of an error of this file system.
    fn trigger(&self) -> Option<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
        let folder = self.folder.to_str()?;
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(folder))?;
        let device = line.split(' ').next()?.strip_prefix("/dev/")?;
        Some(PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error")))
    }

    fn unmount(&self, how: &[&str]) -> bool {
        Command::new("umount").args(how).arg(&self.folder).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.unmount(&["-l"]);
    }
}

#[test]
fn a_file_system_that_turns_read_only_acknowledges_nothing_until_it_is_mended() {
    let (site, port) = site();
    let Some(image) = Image::mount(&site) else { return };
    let server = site.start();
    let mut load = Load::start(site, port, server, 4);
    for _ in 0..count("READ_ONLY", 1, 5) {
        load.senders.wait_for_more(50);
        let worker = load.server.worker(port);
        let Some(trigger) = image.trigger().filter(|trigger| trigger.exists()) else {
            skip("no /sys/fs/ext4/DEVICE/trigger_fs_error here");
            load.senders.abandon();
            return;
        };
        std::fs::write(trigger, "torture").unwrap();
        within(PATIENCE, "the worker on the dead file system ends", || {
            (!process::is_alive(worker)).then_some(())
        });
        let before = load.ledger.acknowledged();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(load.ledger.acknowledged(), before, "acknowledged on a file system that takes no writes");
        let channel = load.server.channel("adt");
        assert_ne!(crate::support::state(&channel), "ready", "{channel:#}");
        // As an operator mends it. The kernel keeps such a file system as long as anything is open on it.
        load.server.stop();
        assert!(image.unmount(&[]));
        let mut check = Command::new("fsck.ext4");
        check.args(["-fy"]).arg(&image.image).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(check.status().unwrap().code().is_some_and(|code| code < 4));
        assert!(image.mount_again());
        load.server.start_again(&load.site);
        load.senders.wait_for_more(20);
    }
    load.end();
    drop(image);
}
