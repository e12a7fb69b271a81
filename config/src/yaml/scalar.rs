//! What a scalar means to each kind of key.
//!
//! The files this server takes over were read by PyYAML (YAML 1.1), so a plain scalar is first what PyYAML would make
//! of it: `yes` and `off` are booleans, `20_000` and `0x4E20` are integers. Source: PyYAML's implicit resolvers.

use std::time::Duration;

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// As written, escapes resolved: `7.70` stays `7.70`.
    pub(crate) text: String,
    /// Written without quotes.
    pub(crate) plain: bool,
    /// What `serde_yaml` takes it for.
    pub(crate) resolved: Resolved,
}

/// What `serde_yaml` takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    Null,
    Bool(bool),
    Int(i128),
    Float,
    Text,
}

impl Scalar {
    /// As a boolean.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        if let Resolved::Bool(value) = self.resolved {
            return Some(value);
        }
        if !self.plain {
            return None;
        }
        match self.text.as_str() {
            "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
            "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    /// As a whole number: a plain one by PyYAML's rules, a quoted one by those of Python's `int()`.
    pub(crate) fn as_int(&self) -> Option<i64> {
        if !self.plain {
            return decimal(self.text.trim());
        }
        pyyaml_int(&self.text).or(match self.resolved {
            Resolved::Int(value) => i64::try_from(value).ok(),
            _ => None,
        })
    }

    /// As a length of time: seconds, or a number with `ms`, `s`, `m`, `h` or `d`.
    pub(crate) fn as_wait(&self) -> Option<Duration> {
        match self.as_int() {
            Some(seconds) => {
                u64::try_from(seconds).ok().filter(|s| *s <= WAIT_MAX_S).map(Duration::from_secs)
            }
            None => parse_wait(&self.text),
        }
    }

    /// As a number of bytes: a number, or one with `KiB`, `MiB` or `GiB`.
    pub(crate) fn as_bytes(&self) -> Option<u64> {
        if let Some(bytes) = self.as_int() {
            return u64::try_from(bytes).ok();
        }
        let (number, unit) = split_unit(&self.text)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        u64::try_from(decimal(number)?).ok()?.checked_mul(factor)
    }
}

/// Ten years: past it a wait is a typing error, and arithmetic on times stays far from its limits.
const WAIT_MAX_S: u64 = 10 * 366 * 86_400;

/// `90`, `1.5`, `90s`, `5m`, `72h`, `500ms`, `2d` as a duration.
pub(crate) fn parse_wait(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) || number.ends_with('.') {
        return None;
    }
    let whole = u64::try_from(decimal(whole)?).ok()?;
    let mut ms = whole.checked_mul(unit_ms)?;
    if !fraction.is_empty() {
        let digits: u64 = fraction.parse().ok()?;
        ms =
            ms.checked_add(digits.checked_mul(unit_ms)? / 10_u64.pow(u32::try_from(fraction.len()).ok()?))?;
    }
    (ms <= WAIT_MAX_S * 1_000).then(|| Duration::from_millis(ms))
}

/// `10MiB` and `10 MiB` → `10`, `MiB`.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.').unwrap_or(text.len());
    if end == 0 { None } else { Some((&text[..end], text[end..].trim_start())) }
}

/// Quotes that a word processor makes of `'` and `"`.
pub(crate) fn is_typographic_quote(c: char) -> bool {
    ('\u{2018}'..='\u{201f}').contains(&c)
}

impl Scalar {
    /// The first typographic quote in it.
    pub(crate) fn typographic_quote(&self) -> Option<char> {
        self.text.chars().find(|c| is_typographic_quote(*c))
    }
}

/// Decimal digits with an optional sign, underscores between digits.
fn decimal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sound = digits.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && !digits.ends_with('_')
        && !digits.contains("__");
    if sound { text.replace('_', "").parse().ok() } else { None }
}

/// An integer of YAML 1.1: decimal, `0x`, `0b`, a leading zero for octal, `1:30` to the base of sixty.
fn pyyaml_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let bare = digits.replace('_', "");
    let value = if let Some(hex) = bare.strip_prefix("0x") {
        i64::from_str_radix(hex, 16).ok()?
    } else if let Some(binary) = bare.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()?
    } else if bare.contains(':') {
        sexagesimal(&bare)?
    } else if bare.len() > 1 && bare.starts_with('0') {
        i64::from_str_radix(&bare[1..], 8).ok()?
    } else if bare.bytes().all(|b| b.is_ascii_digit()) {
        bare.parse().ok()?
    } else {
        return None;
    };
    (value >= 0).then_some(sign * value)
}

fn sexagesimal(text: &str) -> Option<i64> {
    let mut value: i64 = 0;
    for (n, part) in text.split(':').enumerate() {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) || (n == 0 && part.starts_with('0')) {
            return None;
        }
        let part: i64 = part.parse().ok()?;
        if n > 0 && part >= 60 {
            return None;
        }
        value = value.checked_mul(60)?.checked_add(part)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.to_owned(), plain: true, resolved: Resolved::Text }
    }
    fn quoted(text: &str) -> Scalar {
        Scalar { text: text.to_owned(), plain: false, resolved: Resolved::Text }
    }

    #[test]
    fn booleans_are_pyyamls() {
        for text in ["yes", "On", "TRUE", "True"] {
            assert_eq!(plain(text).as_bool(), Some(true), "{text}");
        }
        for text in ["no", "Off", "FALSE", "False"] {
            assert_eq!(plain(text).as_bool(), Some(false), "{text}");
        }
        for text in ["y", "n", "tRUE", "1", "", "ja"] {
            assert_eq!(plain(text).as_bool(), None, "{text}");
        }
        assert_eq!(quoted("yes").as_bool(), None);
    }

    #[test]
    fn integers_are_pyyamls_when_plain_and_pythons_when_quoted() {
        let table = [
            ("20_000", Some(20_000)),
            ("0x4E20", Some(20_000)),
            ("0b11", Some(3)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("-5", Some(-5)),
            ("+5", Some(5)),
            ("1:30", Some(90)),
            ("1:60", None),
            ("09", None),
            ("1.5", None),
            ("abc", None),
            ("_1", None),
            ("0x-5", None),
            ("99999999999999999999", None),
        ];
        for (text, value) in table {
            assert_eq!(plain(text).as_int(), value, "{text}");
        }
        assert_eq!(quoted("20_000").as_int(), Some(20_000));
        assert_eq!(quoted(" 010 ").as_int(), Some(10));
        assert_eq!(quoted("0x10").as_int(), None);
        assert_eq!(quoted("1__0").as_int(), None);
    }

    #[test]
    fn waits_are_seconds_or_have_a_unit() {
        let table = [
            ("30", Some(30_000)),
            ("90s", Some(90_000)),
            ("5m", Some(300_000)),
            ("72h", Some(259_200_000)),
            ("2d", Some(172_800_000)),
            ("500ms", Some(500)),
            ("0.5", Some(500)),
            ("1.5 s", Some(1_500)),
            ("0", Some(0)),
            ("-1", None),
            ("5 weeks", None),
            ("s", None),
            ("1.", None),
            (".5", None),
            ("1.2.3", None),
            ("99999999d", None),
            ("18446744073709551615h", None),
        ];
        for (text, ms) in table {
            assert_eq!(plain(text).as_wait(), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        let table = [
            ("512", Some(512)),
            ("512KiB", Some(524_288)),
            ("10 MiB", Some(10_485_760)),
            ("1GiB", Some(1 << 30)),
            ("7B", Some(7)),
            ("10MB", None),
            ("10M", None),
            ("-1", None),
            ("MiB", None),
            ("99999999999GiB", None),
        ];
        for (text, bytes) in table {
            assert_eq!(plain(text).as_bytes(), bytes, "{text}");
        }
    }
}
