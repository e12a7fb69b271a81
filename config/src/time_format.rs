//! The strftime formats of the configuration (`local_archive.format`), checked when the file is loaded.
//!
//! The list of specifiers is our own: those of Python's documentation, with Python's meaning in the C locale, and those
//! of glibc that are the same everywhere and that Python passes through. jiff renders them; where it differs (`%f` has
//! nine digits there and six in Python, `%c`, `%x` and `%X` follow another pattern) the format is translated first.

use jiff::Zoned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A checked format.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeFormat {
    source: String,
    translated: String,
}

/// How often a format renders something else, at the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// Never: it names no time.
    None,
    /// Once a day, or less often.
    Day,
    /// Once an hour.
    Hour,
    /// More often, or by the time zone.
    Finer,
}

/// Specifiers that change with the hour…
const OF_HOURS: &str = "HIklpP";
/// … and more often, or by the zone.
const OF_LESS: &str = "MSfzZcXsTR";

/// Why a format is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormatFault {
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl fmt::Display for TimeFormatFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

/// Specifier → what jiff is given.
const SPECIFIERS: [(char, &str); 39] = [
    ('a', "%a"),
    ('A', "%A"),
    ('w', "%w"),
    ('d', "%d"),
    ('b', "%b"),
    ('B', "%B"),
    ('m', "%m"),
    ('y', "%y"),
    ('Y', "%Y"),
    ('H', "%H"),
    ('I', "%I"),
    ('p', "%p"),
    ('M', "%M"),
    ('S', "%S"),
    ('f', "%6f"),
    ('z', "%z"),
    ('Z', "%Z"),
    ('j', "%j"),
    ('U', "%U"),
    ('W', "%W"),
    ('c', "%a %b %e %H:%M:%S %Y"),
    ('x', "%m/%d/%y"),
    ('X', "%H:%M:%S"),
    ('%', "%%"),
    ('G', "%G"),
    ('u', "%u"),
    ('V', "%V"),
    // Of glibc, the same in every locale.
    ('C', "%C"),
    ('D', "%m/%d/%y"),
    ('e', "%e"),
    ('F', "%Y-%m-%d"),
    ('g', "%g"),
    ('h', "%b"),
    ('k', "%k"),
    ('l', "%l"),
    ('P', "%P"),
    ('R', "%H:%M"),
    ('s', "%s"),
    ('T', "%H:%M:%S"),
];

/// Those that glibc's `%-d` writes without leading zeros.
const UNPADDED: &str = "dmyHIMSjUWVCegkl";

impl TimeFormat {
    /// Checks a format.
    pub fn new(source: &str) -> Result<TimeFormat, TimeFormatFault> {
        let fault = |what: String, hint: &str| TimeFormatFault { what, hint: hint.to_owned() };
        let known = "known are %Y %m %d %H %M %S %j and the others of Python's strftime";
        let mut translated = String::with_capacity(source.len());
        let mut rest = source.chars();
        while let Some(c) = rest.next() {
            if c.is_control() {
                return Err(fault("a control character in the format".to_owned(), "take it out"));
            }
            if c != '%' {
                translated.push(c);
                continue;
            }
            let Some(letter) = rest.next() else {
                return Err(fault(
                    "a % without a letter at the end".to_owned(),
                    "write %% for a percent sign",
                ));
            };
            if letter == '-' {
                match rest.next() {
                    Some(letter) if UNPADDED.contains(letter) => translated.extend(['%', '-', letter]),
                    Some(letter) => {
                        return Err(fault(format!("unknown specifier %-{}", letter.escape_default()), known));
                    }
                    None => return Err(fault("%- without a letter at the end".to_owned(), known)),
                }
                continue;
            }
            match SPECIFIERS.iter().find(|(known, _)| *known == letter) {
                Some((_, jiff)) => translated.push_str(jiff),
                None => {
                    return Err(fault(format!("unknown specifier %{}", letter.escape_default()), known));
                }
            }
        }
        let format = TimeFormat { source: source.to_owned(), translated };
        // Whatever jiff would refuse it refuses for this time too: specifiers fail by what kind of time they are
        // given, not by which.
        match jiff::fmt::strtime::format(&format.translated, &sample()) {
            Ok(_) => Ok(format),
            Err(e) => Err(fault(format!("cannot be rendered: {e}"), known)),
        }
    }

    /// The format as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// How often it renders something else.
    pub fn granularity(&self) -> Granularity {
        let mut finest = Granularity::None;
        let mut rest = self.source.chars();
        while let Some(c) = rest.next() {
            let letter = match (c, rest.clone().next()) {
                ('%', Some('-')) => rest.by_ref().nth(1),
                ('%', _) => rest.next(),
                _ => continue,
            };
            match letter {
                Some('%') | None => {}
                Some(letter) if OF_LESS.contains(letter) => return Granularity::Finer,
                Some(letter) if OF_HOURS.contains(letter) => finest = Granularity::Hour,
                Some(_) if finest == Granularity::None => finest = Granularity::Day,
                Some(_) => {}
            }
        }
        finest
    }

    /// The time in this format.
    pub fn render(&self, time: &Zoned) -> String {
        jiff::fmt::strtime::format(&self.translated, time).expect("rendered once when it was checked")
    }
}

/// Two dates between them have one and two digits, both halves of a day, and a zone.
fn sample() -> Zoned {
    Zoned::new(jiff::Timestamp::UNIX_EPOCH, jiff::tz::TimeZone::UTC)
}

impl Default for TimeFormat {
    /// `%Y/%m/%d`, a folder a day.
    fn default() -> TimeFormat {
        TimeFormat { source: "%Y/%m/%d".to_owned(), translated: "%Y/%m/%d".to_owned() }
    }
}

impl fmt::Debug for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeFormat({:?})", self.source)
    }
}

impl fmt::Display for TimeFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl TryFrom<String> for TimeFormat {
    type Error = String;
    fn try_from(source: String) -> Result<TimeFormat, String> {
        TimeFormat::new(&source).map_err(|fault| fault.to_string())
    }
}

impl From<TimeFormat> for String {
    fn from(format: TimeFormat) -> String {
        format.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;
    use jiff::tz::{Offset, TimeZone};

    fn time() -> Zoned {
        date(2024, 3, 5)
            .at(14, 7, 9, 12_345_000)
            .to_zoned(TimeZone::fixed(Offset::from_seconds(3_600).unwrap()))
            .unwrap()
    }

    /// The right-hand side is what CPython 3.11 prints for `datetime(2024, 3, 5, 14, 7, 9, 12345)` at +01:00.
    #[test]
    fn it_renders_as_python_does() {
        let table = [
            ("%Y/%m/%d", "2024/03/05"),
            ("%Y%m%dT%H%M%S.%f", "20240305T140709.012345"),
            ("%a %A %w %b %B %y %I %p %z %j", "Tue Tuesday 2 Mar March 24 02 PM +0100 065"),
            ("%U %W %G %u %V %%", "09 10 2024 2 10 %"),
            ("%c", "Tue Mar  5 14:07:09 2024"),
            ("%x", "03/05/24"),
            ("%X", "14:07:09"),
            ("%-d.%-m. %-H %e %F %T %R %D %h %C", "5.3. 14  5 2024-03-05 14:07:09 14:07 03/05/24 Mar 20"),
            ("", ""),
            ("Jahr äöü %Y", "Jahr äöü 2024"),
        ];
        for (format, wanted) in table {
            assert_eq!(TimeFormat::new(format).unwrap().render(&time()), wanted, "{format}");
        }
    }

    #[test]
    fn every_specifier_of_the_list_renders_at_every_time() {
        let times = [time(), sample(), "9999-12-30T22:00:00Z[UTC]".parse().unwrap()];
        for (letter, _) in SPECIFIERS {
            let format = TimeFormat::new(&format!("%{letter}")).unwrap();
            for time in &times {
                assert!(!format.render(time).is_empty(), "%{letter}");
            }
        }
        for letter in UNPADDED.chars() {
            let format = TimeFormat::new(&format!("%-{letter}")).unwrap();
            assert!(times.iter().all(|time| !format.render(time).is_empty()), "%-{letter}");
        }
    }

    #[test]
    fn what_is_not_in_the_list_is_refused() {
        for format in ["%Q", "%", "%Y/%", "%-", "%-Y", "%E", "%3f", "%:z", "%N", "%i", "a\nb", "%\u{2019}"] {
            assert!(TimeFormat::new(format).is_err(), "{format}");
        }
        assert_eq!(
            TimeFormat::new("%Q").unwrap_err().to_string(),
            "unknown specifier %Q; known are %Y %m %d %H %M %S %j and the others of Python's strftime"
        );
    }

    #[test]
    fn how_often_it_changes_is_known() {
        let table = [
            ("%Y/%m/%d", Granularity::Day),
            ("%Y/%-j", Granularity::Day),
            ("%G/W%V", Granularity::Day),
            ("%Y/%m/%d/%-H", Granularity::Hour),
            ("%Y%m%d%p", Granularity::Hour),
            ("%Y/%H%M", Granularity::Finer),
            ("%F %z", Granularity::Finer),
            ("all%%H", Granularity::None),
            ("", Granularity::None),
        ];
        for (format, wanted) in table {
            assert_eq!(TimeFormat::new(format).unwrap().granularity(), wanted, "{format}");
        }
    }

    #[test]
    fn it_travels_as_its_source() {
        let format = TimeFormat::new("%Y/%j").unwrap();
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(json, "\"%Y/%j\"");
        assert_eq!(serde_json::from_str::<TimeFormat>(&json).unwrap(), format);
        assert_eq!(TimeFormat::default(), TimeFormat::new("%Y/%m/%d").unwrap());
    }
}
