//! What the processes of a server hold of the machine's memory and have used of its time.

use super::process;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Memory of a process in bytes, what it shares divided by those that share it. None when it has ended.
pub fn held_by(pid: u32) -> Option<u64> {
    of(pid, "Pss:")
}

/// Of that, what is in no file. How much of its program a process holds depends on who else runs it.
pub fn held_by_its_data(pid: u32) -> Option<u64> {
    of(pid, "Pss_Anon:")
}

fn of(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Memory of a master and all its workers.
pub fn held_by_server(master: u32) -> u64 {
    let workers = process::workers().into_iter().filter(|worker| worker.parent == master);
    workers.map(|worker| worker.pid).chain([master]).filter_map(held_by).sum()
}

/// Time a process has used of the processors, its own and the system's for it.
pub fn processor_time(pid: u32) -> Duration {
    let ticks = |n: usize| process::stat(pid, n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // Fields 14 and 15 of /proc/PID/stat, in hundredths of a second on every Linux.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Samples a server's memory every 20 ms, at the processes' peak as near as sampling gets.
pub struct Watch {
    highest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch.
    pub fn of(master: u32) -> Watch {
        let (highest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (highest, stop) = (highest.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    highest.fetch_max(held_by_server(master), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20).saturating_sub(begun.elapsed()));
                }
            }
        });
        Watch { highest, stop, thread: Some(thread) }
    }

    /// The most that was seen so far.
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
