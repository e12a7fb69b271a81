//! From a message's text to a column's value. Pure.
//!
//! Nothing is cut short, rounded to fit or guessed: what is not of the column's type is an error that names the column
//! and never the value.

use crate::value::Value;
use config::ColumnKind;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

/// What a text must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fit<'a> {
    /// The column's name, for the reason.
    pub(crate) column: &'a str,
    /// Its type.
    pub(crate) kind: ColumnKind,
    /// How the engine counts a text's length.
    pub(crate) length: fn(&str) -> usize,
    /// The zone of the column's times.
    pub(crate) zone: &'a TimeZone,
}

/// The value of a text that is not empty.
///
/// # Errors
/// The column and what is wrong.
pub(crate) fn convert(text: String, fit: &Fit<'_>) -> Result<Value, String> {
    let wrong = |what: &str| format!("column {:?}: {what}", fit.column);
    match fit.kind {
        ColumnKind::Text => Ok(Value::Text(text)),
        ColumnKind::String(max) => match (fit.length)(&text) {
            length if length <= max as usize => Ok(Value::Text(text)),
            length => Err(wrong(&format!("the value has {length} characters, the column takes {max}"))),
        },
        ColumnKind::Integer => integer(&text).map_err(wrong),
        ColumnKind::DateTime => time(text.trim(), fit.zone).map(Value::Time).map_err(wrong),
    }
}

/// 32 bits: what an INT column of every engine holds.
fn integer(text: &str) -> Result<Value, &'static str> {
    let digits = text.trim();
    let bare = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_digit()) {
        return Err("the value is not a whole number");
    }
    match digits.parse::<i32>() {
        Ok(number) => Ok(Value::Integer(i64::from(number))),
        Err(_) => Err("the number does not fit 32 bits"),
    }
}

/// `YYYY[MM[DD[HH[MM[SS[.S…]]]]]][+ZZZZ]`. What is not given is the first of it (January, the 1st, midnight); a fraction
/// is kept to the microsecond. A time with a zone becomes local time; a zone beside a mere date is left alone, since
/// moving a date of birth by hours would change the day.
fn time(text: &str, zone: &TimeZone) -> Result<DateTime, &'static str> {
    const WRONG: &str = "the value is not a time as HL7 writes it";
    let (local, offset) = match text.find(['+', '-']) {
        Some(at) => (&text[..at], Some(offset(&text[at..]).ok_or(WRONG)?)),
        None => (text, None),
    };
    let (digits, fraction) = match local.split_once('.') {
        Some((digits, fraction)) if digits.len() == 14 => (digits, nanoseconds(fraction).ok_or(WRONG)?),
        Some(_) => return Err(WRONG),
        None => (local, 0),
    };
    if !matches!(digits.len(), 4 | 6 | 8 | 10 | 12 | 14) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(WRONG);
    }
    let part = |from: usize, to: usize, absent: i8| match digits.get(from..to) {
        Some(two) => two.parse::<i8>().unwrap_or(i8::MAX),
        None => absent,
    };
    let year: i16 = digits[..4].parse().map_err(|_| WRONG)?;
    // Engines disagree about the year 0; nothing was recorded then.
    let date = Date::new(year, part(4, 6, 1), part(6, 8, 1)).ok().filter(|_| year > 0);
    let time = Time::new(part(8, 10, 0), part(10, 12, 0), part(12, 14, 0), fraction).ok();
    let (Some(date), Some(time)) = (date, time) else {
        return Err("the value names no day or time that there is");
    };
    let local = date.to_datetime(time);
    match offset {
        Some(offset) if digits.len() > 8 => {
            let moment = offset.to_timestamp(local).map_err(|_| WRONG)?;
            Ok(zone.to_datetime(moment))
        }
        _ => Ok(local),
    }
}

/// `+ZZZZ`: hours and minutes.
fn offset(text: &str) -> Option<Offset> {
    let digits = text.get(1..).filter(|d| d.len() == 4 && d.bytes().all(|b| b.is_ascii_digit()))?;
    let hours: i32 = digits[..2].parse().ok()?;
    let minutes: i32 = digits[2..].parse().ok()?;
    if hours > 14 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3_600 + minutes * 60;
    Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds }).ok()
}

/// A fraction of 1 to 9 digits, to the microsecond: what the finest of the engines keeps.
fn nanoseconds(fraction: &str) -> Option<i32> {
    if !(1..=9).contains(&fraction.len()) || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<6.6}").parse::<i32>().ok().map(|us| us * 1_000)
}

/// A time as HL7 writes it: what a look-up of a time column gives to whoever uses it.
pub(crate) fn hl7_time(time: DateTime) -> String {
    let whole = time.strftime("%Y%m%d%H%M%S").to_string();
    match time.subsec_nanosecond() / 1_000 {
        0 => whole,
        us => format!("{whole}.{us:06}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn as_kind(kind: ColumnKind, text: &str) -> Result<Value, String> {
        let zone = berlin();
        let fit = Fit { column: "C", kind, length: |t| t.chars().count(), zone: &zone };
        convert(text.to_owned(), &fit)
    }

    fn as_time(text: &str) -> String {
        match as_kind(ColumnKind::DateTime, text) {
            Ok(Value::Time(time)) => time.to_string(),
            Ok(_) => unreachable!(),
            Err(fault) => fault,
        }
    }

    #[test]
    fn every_precision_of_hl7_is_a_time() {
        for (text, time) in [
            ("2024", "2024-01-01T00:00:00"),
            ("202402", "2024-02-01T00:00:00"),
            ("20240229", "2024-02-29T00:00:00"),
            ("2024022917", "2024-02-29T17:00:00"),
            ("202402291742", "2024-02-29T17:42:00"),
            ("20240229174209", "2024-02-29T17:42:09"),
            ("20240229174209.5", "2024-02-29T17:42:09.5"),
            ("20240229174209.1234", "2024-02-29T17:42:09.1234"),
            ("20240229174209.123456", "2024-02-29T17:42:09.123456"),
            ("20240229174209.123456789", "2024-02-29T17:42:09.123456"),
            (" 20240229 ", "2024-02-29T00:00:00"),
        ] {
            assert_eq!(as_time(text), time, "{text}");
        }
    }

    #[test]
    fn a_time_with_a_zone_becomes_local_time() {
        for (text, time) in [
            ("20240115120000+0100", "2024-01-15T12:00:00"),
            ("20240715120000+0100", "2024-07-15T13:00:00"),
            ("20240715120000.25-0500", "2024-07-15T19:00:00.25"),
            ("202407152330+0000", "2024-07-16T01:30:00"),
            ("2024071523-0000", "2024-07-16T01:00:00"),
            ("20240715120000+0545", "2024-07-15T08:15:00"),
        ] {
            assert_eq!(as_time(text), time, "{text}");
        }
    }

    #[test]
    fn the_day_of_a_date_does_not_move_with_its_zone() {
        for (text, time) in [
            ("19700101-1100", "1970-01-01T00:00:00"),
            ("1970+1400", "1970-01-01T00:00:00"),
            ("197001+0100", "1970-01-01T00:00:00"),
        ] {
            assert_eq!(as_time(text), time, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_and_not_quoted() {
        for text in [
            "202",
            "20241",
            "2024131",
            "20241301",
            "20240230",
            "20230229",
            "2024022924",
            "202402291760",
            "20240229174260",
            "20240229174209.",
            "2024.5",
            "20240229174209.1234567890",
            "20240229+1",
            "20240229+01:00",
            "20240229174209+2500",
            "20240229174209Z",
            "2024-02-29",
            "0000",
            "00000101",
            "yesterday",
            "２０２４",
            "20240229174209+",
            "99999",
            "-2024",
            "20240229174209.12x",
        ] {
            let fault = as_time(text);
            assert!(fault.starts_with("column \"C\": the value "), "{text}: {fault}");
            assert!(!fault.contains(text), "{fault}");
        }
    }

    #[test]
    fn whole_numbers_of_32_bits_are_integers() {
        for (text, number) in
            [("0", 0), ("007", 7), (" 42 ", 42), ("+5", 5), ("-2147483648", i64::from(i32::MIN))]
        {
            assert_eq!(as_kind(ColumnKind::Integer, text), Ok(Value::Integer(number)), "{text}");
        }
        for text in ["", " ", "+", "1.0", "1e3", "0x10", "12abc", "٣", "2147483648", "99999999999999999999"]
        {
            let fault = as_kind(ColumnKind::Integer, text).unwrap_err();
            assert!(fault.starts_with("column \"C\": the "), "{fault}");
        }
    }

    #[test]
    fn a_string_is_counted_in_characters_and_never_cut() {
        assert!(as_kind(ColumnKind::String(3), "äß𝄞").is_ok());
        let fault = as_kind(ColumnKind::String(3), "abcd").unwrap_err();
        assert_eq!(fault, "column \"C\": the value has 4 characters, the column takes 3");
        assert!(as_kind(ColumnKind::Text, &"x".repeat(1 << 20)).is_ok());
    }

    #[test]
    fn a_time_read_comes_back_as_hl7_writes_it() {
        for text in ["20240229174209", "20240229174209.000001", "20240229174209.500000"] {
            let time = time(text, &TimeZone::UTC).unwrap();
            assert_eq!(hl7_time(time), text);
        }
    }
}
