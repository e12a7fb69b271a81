//! Parameters for tiberius and values from it. Pure.

use crate::fault::Fault;
use crate::value::Value;
use jiff::civil::{Date, DateTime};
use jiff::{SignedDuration, Span, ToSpan};
use std::borrow::Cow;
use std::fmt::Write as _;
use tiberius::time::{Date as TdsDate, DateTime2, Time};
use tiberius::{ColumnData, ToSql};

/// Day 0 of `datetime2`.
const FIRST_DAY: Date = Date::constant(1, 1, 1);
/// Day 0 of `datetime`.
const DAY_0_OF_DATETIME: Date = Date::constant(1900, 1, 1);
/// Decimal places of a second that we send: `datetime2` has no more.
const SCALE: u8 = 7;
const NANOSECONDS_OF_A_DAY: i128 = 86_400 * 1_000_000_000;

/// A parameter, ready to be sent.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Bound<'a> {
    /// `bigint`: one type whatever the number, so that a statement has one plan.
    Integer(i64),
    /// `nvarchar`, and `nvarchar(max)` where it is long.
    Text(&'a str),
    Time(DateTime2),
}

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> ColumnData<'_> {
        match self {
            Bound::Integer(number) => ColumnData::I64(Some(*number)),
            Bound::Text(text) => ColumnData::String(Some(Cow::Borrowed(text))),
            Bound::Time(time) => ColumnData::DateTime2(Some(*time)),
        }
    }
}

/// The statement and its parameters as they are sent. A null stands in the text: a parameter has a type, and one of
/// another type than the column's is refused even where it is null (`datetime2` from `bigint`).
pub(super) fn bind<'a>(sql: &'a str, params: &'a [Value]) -> Result<(Cow<'a, str>, Vec<Bound<'a>>), Fault> {
    let bound = params
        .iter()
        .map(|value| match value {
            Value::Null => Ok(None),
            Value::Integer(number) => Ok(Some(Bound::Integer(*number))),
            Value::Text(text) => Ok(Some(Bound::Text(text))),
            Value::Time(time) => datetime2(*time).map(|time| Some(Bound::Time(time))),
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    let sql = if bound.contains(&None) { Cow::Owned(with_nulls(sql, &bound)) } else { Cow::Borrowed(sql) };
    Ok((sql, bound.into_iter().flatten().collect()))
}

/// Writes `NULL` for each parameter that is one, and counts the others afresh. What stands in brackets or quotes is
/// a name or a text, whatever it looks like.
fn with_nulls(sql: &str, bound: &[Option<Bound<'_>>]) -> String {
    let mut written = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find(['@', '[', '\'', '"']) {
        written.push_str(&rest[..at]);
        rest = &rest[at..];
        let token = match rest.as_bytes()[0] {
            b'@' => placeholder(rest),
            b'[' => inside(rest, ']'),
            b'"' => inside(rest, '"'),
            _ => inside(rest, '\''),
        };
        let (token, after) = rest.split_at(token);
        match token.strip_prefix("@P").and_then(|place| place.parse::<usize>().ok()) {
            Some(place @ 1..) if place <= bound.len() => match &bound[place - 1] {
                None => written.push_str("NULL"),
                Some(_) => {
                    let before = bound[..place].iter().flatten().count();
                    let _ = write!(written, "@P{before}");
                }
            },
            _ => written.push_str(token),
        }
        rest = after;
    }
    written + rest
}

/// Length of `@P12`, or of a lone `@`.
fn placeholder(text: &str) -> usize {
    match text.strip_prefix("@P") {
        Some(digits) => 2 + digits.bytes().take_while(u8::is_ascii_digit).count(),
        None => 1,
    }
}

/// Length of what begins with a quote and ends with `close`; a doubled one is part of it.
fn inside(text: &str, close: char) -> usize {
    let mut end = 1;
    while let Some(at) = text[end..].find(close) {
        end += at + 1;
        if !text[end..].starts_with(close) {
            return end;
        }
        end += 1;
    }
    text.len()
}

fn datetime2(time: DateTime) -> Result<DateTime2, Fault> {
    let days = time.date().duration_since(FIRST_DAY).as_hours() / 24;
    let days = u32::try_from(days).map_err(|_| Fault::Failed("a time before the year 1".to_owned()))?;
    let seconds = u64::try_from(i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60)
        .expect("hours and minutes are positive")
        + u64::try_from(time.second()).expect("seconds are positive");
    let fraction = u64::try_from(time.subsec_nanosecond()).expect("fractions are positive") / 100;
    Ok(DateTime2::new(TdsDate::new(days), Time::new(seconds * 10_000_000 + fraction, SCALE)))
}

/// A value of a row. Whole numbers and times keep their kind, the rest becomes text.
pub(super) fn read(data: ColumnData<'static>) -> Result<Value, Fault> {
    let value = match data {
        ColumnData::U8(number) => number.map(|n| Value::Integer(n.into())),
        ColumnData::I16(number) => number.map(|n| Value::Integer(n.into())),
        ColumnData::I32(number) => number.map(|n| Value::Integer(n.into())),
        ColumnData::I64(number) => number.map(Value::Integer),
        ColumnData::Bit(bit) => bit.map(|b| Value::Integer(b.into())),
        ColumnData::String(text) => text.map(|t| Value::Text(t.into_owned())),
        ColumnData::DateTime2(time) => time.map(from_datetime2).transpose()?.map(Value::Time),
        ColumnData::DateTime(time) => {
            // Ticks of 1/300 s, shown as milliseconds.
            let time = time
                .map(|t| (i64::from(t.days()), (i128::from(t.seconds_fragments()) * 10 + 1) / 3 * 1_000_000));
            time.map(|(days, nanoseconds)| at(DAY_0_OF_DATETIME, days, nanoseconds))
                .transpose()?
                .map(Value::Time)
        }
        ColumnData::SmallDateTime(time) => {
            let time =
                time.map(|t| (i64::from(t.days()), i128::from(t.seconds_fragments()) * 60 * 1_000_000_000));
            time.map(|(days, nanoseconds)| at(DAY_0_OF_DATETIME, days, nanoseconds))
                .transpose()?
                .map(Value::Time)
        }
        ColumnData::Date(day) => {
            let day = day.map(|d| at(FIRST_DAY, d.days().into(), 0)).transpose()?;
            day.map(|day| Value::Text(day.date().to_string()))
        }
        ColumnData::Time(time) => {
            let time = time.map(|t| at(FIRST_DAY, 0, nanoseconds(t)?)).transpose()?;
            time.map(|time| Value::Text(time.time().to_string()))
        }
        ColumnData::DateTimeOffset(time) => match time {
            None => None,
            Some(time) => {
                // It travels in UTC, with the zone that it is shown in beside it.
                let minutes = i64::from(time.offset());
                let shown = from_datetime2(time.datetime2())?
                    .checked_add(minutes.minutes())
                    .map_err(|_| no_time())?;
                let sign = if minutes < 0 { '-' } else { '+' };
                let minutes = minutes.abs();
                Some(Value::Text(format!("{shown}{sign}{:02}:{:02}", minutes / 60, minutes % 60)))
            }
        },
        ColumnData::Numeric(number) => {
            number.map(|number| Value::Text(decimal(number.value(), number.scale())))
        }
        ColumnData::F32(number) => number.map(|n| Value::Text(n.to_string())),
        ColumnData::F64(number) => number.map(|n| Value::Text(n.to_string())),
        ColumnData::Guid(guid) => guid.map(|g| Value::Text(g.to_string().to_uppercase())),
        ColumnData::Xml(xml) => xml.map(|xml| Value::Text(xml.as_ref().to_string())),
        ColumnData::Binary(bytes) => bytes.map(|bytes| {
            Value::Text(bytes.iter().fold("0x".to_owned(), |mut text, byte| {
                let _ = write!(text, "{byte:02X}");
                text
            }))
        }),
    };
    Ok(value.unwrap_or(Value::Null))
}

fn from_datetime2(time: DateTime2) -> Result<DateTime, Fault> {
    at(FIRST_DAY, time.date().days().into(), nanoseconds(time.time())?)
}

fn nanoseconds(time: Time) -> Result<i128, Fault> {
    let unit = 9_u32.checked_sub(time.scale().into()).ok_or_else(no_time)?;
    Ok(i128::from(time.increments()) * 10_i128.pow(unit))
}

/// A day, and a time of it to the microsecond.
fn at(day_0: Date, days: i64, nanoseconds: i128) -> Result<DateTime, Fault> {
    if !(0..NANOSECONDS_OF_A_DAY).contains(&nanoseconds) {
        return Err(no_time());
    }
    let microseconds = i64::try_from(nanoseconds / 1_000).expect("a day's microseconds fit");
    let day = Span::new().try_days(days).and_then(|days| day_0.checked_add(days)).ok();
    let time = day.and_then(|day| {
        day.to_datetime(jiff::civil::Time::midnight())
            .checked_add(SignedDuration::from_micros(microseconds))
            .ok()
    });
    time.ok_or_else(no_time)
}

/// A server that sends such a time is not one that a row could be trusted to.
fn no_time() -> Fault {
    Fault::down("the server does not speak TDS: a time that does not exist")
}

fn decimal(value: i128, scale: u8) -> String {
    let scale = usize::from(scale);
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::datetime;

    #[test]
    fn a_null_stands_in_the_text_and_the_others_move_up() {
        let text = |t: &str| Value::Text(t.to_owned());
        let params = [Value::Null, text("a"), Value::Null, Value::Integer(7)];
        let (sql, bound) =
            bind("INSERT INTO [t] ([@P1], [a]]@P2], [c]) SELECT @P1, @P2, @P3, @P4 + @P2", &params).unwrap();
        assert_eq!(sql, "INSERT INTO [t] ([@P1], [a]]@P2], [c]) SELECT NULL, @P1, NULL, @P2 + @P1");
        assert_eq!(bound, [Bound::Text("a"), Bound::Integer(7)]);
    }

    #[test]
    fn a_statement_without_nulls_is_sent_as_it_is() {
        let params = [Value::Integer(1), Value::Integer(2)];
        assert!(matches!(bind("@P1 @P2 @P10 '@P1", &params).unwrap().0, Cow::Borrowed(_)));
    }

    #[test]
    fn text_in_quotes_and_lone_signs_are_left_alone() {
        let params = [Value::Null];
        let (sql, _) = bind("@@TRANCOUNT '@P1 it''s @P1' \"@P1\" @P2 @P @ @P1 [@P1", &params).unwrap();
        assert_eq!(sql, "@@TRANCOUNT '@P1 it''s @P1' \"@P1\" @P2 @P @ NULL [@P1");
    }

    #[test]
    fn a_time_goes_and_comes_back_to_the_microsecond() {
        for time in [
            datetime(1, 1, 1, 0, 0, 0, 0),
            datetime(1899, 12, 31, 23, 59, 59, 999_999_000),
            datetime(2024, 2, 29, 12, 34, 56, 123_456_000),
            datetime(9999, 12, 31, 23, 59, 59, 999_999_000),
        ] {
            let sent = datetime2(time).unwrap();
            assert_eq!(read(ColumnData::DateTime2(Some(sent))), Ok(Value::Time(time)), "{time}");
        }
        assert!(matches!(datetime2(datetime(0, 12, 31, 0, 0, 0, 0)), Err(Fault::Failed(_))));
    }

    #[test]
    fn the_older_time_types_are_read() {
        let time = tiberius::time::DateTime::new(45_350, 300 * 3_600 + 1);
        let expected = datetime(2024, 3, 1, 1, 0, 0, 3_000_000);
        assert_eq!(read(ColumnData::DateTime(Some(time))).unwrap(), Value::Time(expected));
        let time = tiberius::time::SmallDateTime::new(45_350, 61);
        let expected = datetime(2024, 3, 1, 1, 1, 0, 0);
        assert_eq!(read(ColumnData::SmallDateTime(Some(time))).unwrap(), Value::Time(expected));
    }

    #[test]
    fn a_time_that_does_not_exist_is_a_fault() {
        let absurd = DateTime2::new(TdsDate::new(0x00ff_ffff), Time::new(u64::MAX, 0));
        assert!(read(ColumnData::DateTime2(Some(absurd))).unwrap_err().is_again());
        let absurd = DateTime2::new(TdsDate::new(1), Time::new(1, 200));
        assert!(read(ColumnData::DateTime2(Some(absurd))).unwrap_err().is_again());
        let absurd = tiberius::time::DateTime::new(i32::MAX, u32::MAX);
        assert!(read(ColumnData::DateTime(Some(absurd))).unwrap_err().is_again());
    }

    #[test]
    fn other_types_come_as_the_server_writes_them() {
        let numeric = tiberius::numeric::Numeric::new_with_scale(-1_205, 2);
        assert_eq!(read(ColumnData::Numeric(Some(numeric))).unwrap(), Value::Text("-12.05".to_owned()));
        assert_eq!(decimal(5, 3), "0.005");
        assert_eq!(decimal(i128::MIN, 0), i128::MIN.to_string());
        assert_eq!(read(ColumnData::Bit(Some(true))).unwrap(), Value::Integer(1));
        let bytes = ColumnData::Binary(Some(Cow::Owned(vec![0, 0xab])));
        assert_eq!(read(bytes).unwrap(), Value::Text("0x00AB".to_owned()));
        let day = ColumnData::Date(Some(TdsDate::new(738_944)));
        assert_eq!(read(day).unwrap(), Value::Text("2024-02-29".to_owned()));
        assert_eq!(read(ColumnData::Guid(None)).unwrap(), Value::Null);
    }
}
