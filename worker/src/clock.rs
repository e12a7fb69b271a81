//! The worker's time: Unix time that never steps. It starts from the system's clock and goes on by the monotonic one, so
//! that a clock set back by years delays no retry; names and stamps of messages are taken from the system's clock.

use jiff::tz::TimeZone;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The rules of local time, as the system's administrator chose them.
const LOCAL_ZONE: &str = "/etc/localtime";

/// The worker's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    start_us: i64,
}

impl Clock {
    /// Starts from the system's clock.
    pub fn start() -> Clock {
        Clock { start: instant(), start_us: system_us() }
    }

    /// Microseconds of Unix time, never stepping: for waits.
    pub fn now_us(&self) -> i64 {
        self.start_us + i64::try_from((instant() - self.start).as_micros()).unwrap_or(i64::MAX)
    }

    /// Milliseconds since the start: for a session's timers.
    pub fn now_ms(&self) -> u64 {
        u64::try_from((instant() - self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The moment by the monotonic clock; in a simulation, by its own.
pub fn instant() -> Instant {
    #[cfg(test)]
    if let Some(simulated) = simulated::instant() {
        return simulated;
    }
    Instant::now()
}

/// Microseconds of Unix time as the system has it: for a message's time of receipt.
pub fn system_us() -> i64 {
    #[cfg(test)]
    if let Some(simulated) = simulated::system_us() {
        return simulated;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// The zone of local time. The file that stands for it is read by itself: asked for by its name, all folders of zones are
/// gone through first, at each start of each worker.
pub fn local_zone() -> TimeZone {
    let is_named = std::env::var_os("TZ").is_some();
    let zone = if is_named { None } else { zone_in(Path::new(LOCAL_ZONE)) };
    zone.unwrap_or_else(TimeZone::system)
}

fn zone_in(file: &Path) -> Option<TimeZone> {
    TimeZone::tzif("local", &std::fs::read(file).ok()?).ok()
}

/// The local time at that moment, with the offset that was in force when the message came.
pub fn local(unix_us: i64, utc_offset_s: i32) -> jiff::Zoned {
    let offset = jiff::tz::Offset::from_seconds(utc_offset_s).unwrap_or(jiff::tz::Offset::UTC);
    let timestamp = jiff::Timestamp::from_microsecond(unix_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(TimeZone::fixed(offset))
}

/// The offset of local time from UTC at that moment, in seconds.
pub fn utc_offset_s(zone: &TimeZone, unix_us: i64) -> i32 {
    let timestamp = jiff::Timestamp::from_microsecond(unix_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    zone.to_offset(timestamp).seconds()
}

/// A message's time of receipt as its file is named: `%Y%m%dT%H%M%S.%6f`.
pub fn file_time(time: &jiff::Zoned) -> String {
    let mut text = b"YYYYMMDDTHHMMSS.000000".to_vec();
    write_date(&mut text[..8], time);
    write_time(&mut text[9..15], time);
    write_number(&mut text[16..], time.subsec_nanosecond() / 1000);
    String::from_utf8(text).expect("digits are ASCII")
}

/// A time as MSH-7 has it: `YYYYMMDDHHMMSS`.
pub fn hl7_time(time: &jiff::Zoned) -> String {
    let mut text = b"YYYYMMDDHHMMSS".to_vec();
    write_date(&mut text[..8], time);
    write_time(&mut text[8..], time);
    String::from_utf8(text).expect("digits are ASCII")
}

fn write_date(text: &mut [u8], time: &jiff::Zoned) {
    // Years before 1 are in no message's time of receipt.
    write_number(&mut text[..4], time.year().max(0).into());
    write_number(&mut text[4..6], time.month().into());
    write_number(&mut text[6..], time.day().into());
}

fn write_time(text: &mut [u8], time: &jiff::Zoned) {
    for (at, number) in [time.hour(), time.minute(), time.second()].into_iter().enumerate() {
        write_number(&mut text[2 * at..2 * at + 2], number.into());
    }
}

/// A number in as many digits as there is room for.
fn write_number(digits: &mut [u8], number: i32) {
    digits.iter_mut().rfold(number, |left, digit| {
        *digit = b'0' + (left % 10) as u8;
        left / 10
    });
}

/// Time that passes when a test says so, in its thread only.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    /// 2 January 2026.
    const BEGINNING_US: i64 = 1_767_312_000_000_000;

    thread_local! {
        static PASSED: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    /// From now on that much time has passed since the beginning; `None`: the system's clocks count again.
    pub(crate) fn set(passed: Option<Duration>) {
        PASSED.set(passed);
    }

    pub(super) fn instant() -> Option<Instant> {
        PASSED.get().map(|passed| *BEGINNING + passed)
    }

    pub(super) fn system_us() -> Option<i64> {
        PASSED.get().map(|passed| BEGINNING_US + passed.as_micros() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zones_file_tells_winter_and_summer_and_another_file_tells_nothing() {
        let berlin = Path::new("/usr/share/zoneinfo/Europe/Berlin");
        if !berlin.exists() {
            return eprintln!("SKIPPED: no time zones on this machine");
        }
        let zone = zone_in(berlin).unwrap();
        let offsets = [1_767_322_800_000_000, 1_782_950_400_000_000].map(|us| utc_offset_s(&zone, us));
        assert_eq!(offsets, [3600, 7200]);
        assert!(zone_in(Path::new("/etc/passwd")).is_none());
    }

    #[test]
    fn a_message_is_named_in_the_local_time_of_its_receipt() {
        let time = local(1_767_322_800_000_042, 3600);
        assert_eq!(file_time(&time), "20260102T040000.000042");
        assert_eq!(hl7_time(&time), "20260102040000");
    }
}
