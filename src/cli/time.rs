//! Points in time as people write them on a command line.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// What is said of such an argument in `--help`.
pub(super) const HINT: &str =
    "2026-01-31, 2026-01-31T14:05, 14:05, today, yesterday, or a time ago: 90s, 15m, 3h, 2d";

/// Microseconds of Unix time, in local time where none is given.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    parse_at(text, &Zoned::now())
}

fn parse_at(text: &str, now: &Zoned) -> Result<i64, String> {
    moment(text.trim(), now)
        .map(|time| time.as_microsecond())
        .ok_or_else(|| format!("not a time; write {HINT}"))
}

fn moment(text: &str, now: &Zoned) -> Option<Timestamp> {
    let zone = now.time_zone();
    let begin = |date: Date| Some(date.to_zoned(zone.clone()).ok()?.timestamp());
    match text {
        "now" => return Some(now.timestamp()),
        "today" => return begin(now.date()),
        "yesterday" => return begin(now.date().yesterday().ok()?),
        _ => {}
    }
    if let Some(span) = ago(text) {
        return Some(now.checked_sub(span).ok()?.timestamp());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date.parse::<Date>().ok()?, time),
        None if text.contains(':') => (now.date(), text),
        None => return begin(text.parse().ok()?),
    };
    let time = clock_time(time)?;
    Some(DateTime::from_parts(date, time).to_zoned(TimeZone::clone(zone)).ok()?.timestamp())
}

/// `14:05` or `14:05:30`.
fn clock_time(text: &str) -> Option<jiff::civil::Time> {
    let text = text.trim();
    if text.len() == 5 { format!("{text}:00").parse().ok() } else { text.parse().ok() }
}

/// `90s`, `15m`, `3h`, `2d`, `1w`.
fn ago(text: &str) -> Option<Span> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok().filter(|n| (0..=1_000_000).contains(n))?;
    match unit {
        "s" => Some(Span::new().seconds(number)),
        "m" => Some(Span::new().minutes(number)),
        "h" => Some(Span::new().hours(number)),
        "d" => Span::new().try_days(number).ok(),
        "w" => Span::new().try_weeks(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Zoned = "2026-03-05T14:07:09+01:00[Europe/Berlin]".parse().unwrap();
        let table = [
            ("2026-01-31", "2026-01-30T23:00:00Z"),
            ("2026-01-31T14:05", "2026-01-31T13:05:00Z"),
            ("2026-01-31 14:05:30", "2026-01-31T13:05:30Z"),
            ("2026-01-31T14:05:30Z", "2026-01-31T14:05:30Z"),
            ("08:00", "2026-03-05T07:00:00Z"),
            ("today", "2026-03-04T23:00:00Z"),
            ("yesterday", "2026-03-03T23:00:00Z"),
            ("90s", "2026-03-05T13:05:39Z"),
            ("2d", "2026-03-03T13:07:09Z"),
            ("1w", "2026-02-26T13:07:09Z"),
        ];
        for (text, wanted) in table {
            let wanted: Timestamp = wanted.parse().unwrap();
            assert_eq!(parse_at(text, &now), Ok(wanted.as_microsecond()), "{text}");
        }
        for text in ["", "d", "-1d", "2026-13-01", "25:00", "tomorrow", "9999999999999d", "1ä"] {
            assert!(parse_at(text, &now).is_err(), "{text}");
        }
    }
}
