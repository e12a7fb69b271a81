//! What the processes of a server cost, as the kernel tells it.

use std::fs;
use std::time::Duration;

/// Processor time, user and system.
pub(super) fn cpu_of(pid: u32) -> Duration {
    /// The kernel tells times in hundredths of a second whatever its own tick.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the title and may hold anything but ends with the last parenthesis.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Memory that only this process has.
pub(super) fn private_bytes(pid: u32) -> Option<u64> {
    Some(kib_of(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Private_") * 1024)
}

/// Memory that is resident now, with what it shares.
pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    Some(kib_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:") * 1024)
}

/// The most that was ever resident.
pub(super) fn peak_bytes(pid: u32) -> Option<u64> {
    Some(kib_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:") * 1024)
}

/// The sum of what stands at lines that begin so.
fn kib_of(text: &str, begin: &str) -> u64 {
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    text.lines().filter(|line| line.starts_with(begin)).filter_map(kib).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_process_is_measured() {
        let own = std::process::id();
        assert!(private_bytes(own).unwrap() > 10_000);
        assert!(peak_bytes(own).unwrap() >= resident_bytes(own).unwrap());
        assert!(resident_bytes(own).unwrap() > 100_000);
        let start = Instant::now();
        while cpu_of(own).is_zero() {
            assert!(start.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(cpu_of(0), Duration::ZERO);
        assert_eq!(private_bytes(0), None);
    }
}
