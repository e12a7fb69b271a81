//! Processes that share a slot table are killed at random: no slot is lost, nobody waits for ever.

#![allow(clippy::unwrap_used)]

use link::SlotTable;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const OWNER: &str = "SLOT_OWNER";
const LIMIT: u16 = 3;
const PROCESSES: usize = 6;
const THREADS: usize = 3;
const KILLS: usize = 400;
const SOON: Duration = Duration::from_secs(10);

struct Process {
    child: Child,
    owner: u32,
    /// One for each 20 slots it had.
    progress: Arc<AtomicU64>,
}

impl Process {
    fn start(table: &SlotTable, owner: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_takes_slots_until_it_is_killed"])
            .env(OWNER, owner.to_string())
            .stdin(table.as_fd().try_clone_to_owned().unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let progress = Arc::new(AtomicU64::new(0));
        let (mut pipe, seen) = (child.stderr.take().unwrap(), Arc::clone(&progress));
        thread::spawn(move || {
            let mut bytes = [0; 512];
            while let Ok(n @ 1..) = pipe.read(&mut bytes) {
                seen.fetch_add(n as u64, Relaxed);
            }
        });
        Self { child, owner, progress }
    }

    /// As the master does it: found dead, slots taken back, only then reaped.
    fn kill(mut self, table: &SlotTable) {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        self.child.kill().unwrap();
        let pid = Pid::from_child(&self.child);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        table.reclaim(self.owner);
        assert_eq!(table.used_by(self.owner), 0);
        self.child.wait().unwrap();
    }
}

#[test]
fn a_process_that_takes_slots_until_it_is_killed() {
    let Ok(owner) = std::env::var(OWNER) else { return };
    let table = SlotTable::attach(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let slots = table.slots(owner.parse().unwrap());
    let work = |n: usize| {
        for turn in n.. {
            let slot = slots.acquire(Duration::from_secs(60)).unwrap();
            if turn % 7 == 0 {
                thread::sleep(Duration::from_micros(200));
            }
            drop(slot);
            // The parent is gone when nobody reads this.
            if turn % 20 == 0 && io::stderr().write_all(b".").is_err() {
                std::process::exit(0);
            }
        }
    };
    thread::scope(|scope| {
        for n in 0..THREADS {
            scope.spawn(move || work(n));
        }
    });
}

#[test]
fn processes_killed_at_random_leak_no_slot_and_stall_nobody() {
    let table = SlotTable::create(LIMIT).unwrap();
    let ours = table.slots(1);
    let mut owners = 2u32..;
    let mut start = || Process::start(&table, owners.next().unwrap());
    let mut processes: Vec<Process> = (0..PROCESSES).map(|_| start()).collect();
    let mut seed = 88_172_645_463_325_252u64;
    for kill in 0..KILLS {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        thread::sleep(Duration::from_micros(seed % 6000));
        processes.remove(seed as usize % PROCESSES).kill(&table);
        processes.push(start());
        assert!(ours.acquire(SOON).is_some(), "no slot after {kill} kills");
    }
    for process in &processes {
        let (before, asked) = (process.progress.load(Relaxed), Instant::now());
        while process.progress.load(Relaxed) == before {
            assert!(asked.elapsed() < SOON, "owner {} stalls", process.owner);
            thread::sleep(Duration::from_millis(1));
        }
    }
    processes.into_iter().for_each(|process| process.kill(&table));
    assert_eq!(table.sweep(&[]), 0, "slots were lost");
    let all: Vec<_> = (0..LIMIT).map(|_| ours.acquire(Duration::ZERO)).collect();
    assert!(all.iter().all(Option::is_some));
}
