//! Patterns of the configuration (`custom_regex`, `mobile.pattern`), compiled once.
//!
//! A pattern runs by `regex`, in linear time, where it needs no look-around or back-reference; otherwise by
//! `fancy-regex`, with a limit on backtracking and on the length of the value. A limit that is hit is a
//! [`PatternFault`], never "no match".

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Bytes of a value that a pattern with look-around is tried on. It is what bounds `(?=(a+)+b)a`, whose inner part runs
/// in linear time at every position and so escapes [`BACKTRACK_MAX`]: some 5 s for a value this long, by the square.
pub const FANCY_VALUE_BYTES_MAX: usize = 64 << 10;

/// Steps back that one search may take. Each position without a match costs at least one and the usual look-behind with
/// an alternative three: on a value of [`FANCY_VALUE_BYTES_MAX`] an innocent pattern takes some 200,000 (measured), which
/// a lower limit would turn into a failed message. At this one an exponential pattern ends in 10 ms.
const BACKTRACK_MAX: usize = 300_000;

/// A compiled pattern. Equal to another one of the same source.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    source: String,
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Plain(regex::Regex),
    Fancy(Box<fancy_regex::Regex>),
}

/// Why a pattern could not be tried on a value: it or the value is at fault, and trying again changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternFault {
    /// The value is longer than a pattern with look-around is tried on.
    TooLong {
        /// Its length.
        value_bytes: usize,
    },
    /// The pattern backtracks too much on this value.
    TooSlow,
}

impl fmt::Display for PatternFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternFault::TooLong { value_bytes } => write!(
                f,
                "the value has {value_bytes} bytes, a pattern with look-around takes {FANCY_VALUE_BYTES_MAX}"
            ),
            PatternFault::TooSlow => f.write_str("the pattern backtracks too much on this value"),
        }
    }
}

impl std::error::Error for PatternFault {}

impl Pattern {
    /// Compiles a pattern; the error says what is wrong with it, on one line.
    pub fn new(source: &str) -> Result<Pattern, String> {
        let engine = match regex::Regex::new(source) {
            Ok(plain) => Engine::Plain(plain),
            Err(regex::Error::CompiledTooBig(bytes)) => {
                return Err(format!("compiled it is over {bytes} bytes"));
            }
            Err(_) => Engine::Fancy(Box::new(
                fancy_regex::RegexBuilder::new(source)
                    .backtrack_limit(BACKTRACK_MAX)
                    .build()
                    .map_err(|e| last_line(&e.to_string()))?,
            )),
        };
        Ok(Pattern { source: source.to_owned(), engine })
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The value with every match replaced by `with`, which is taken literally.
    pub fn replace_all<'v>(&self, value: &'v str, with: &str) -> Result<Cow<'v, str>, PatternFault> {
        match &self.engine {
            Engine::Plain(regex) => Ok(regex.replace_all(value, regex::NoExpand(with))),
            Engine::Fancy(regex) => {
                bounded(value)?;
                // `replace_all` panics where the limit is hit.
                regex.try_replacen(value, 0, fancy_regex::NoExpand(with)).map_err(|_| PatternFault::TooSlow)
            }
        }
    }

    /// Whether the pattern matches somewhere in the value.
    pub fn is_match(&self, value: &str) -> Result<bool, PatternFault> {
        match &self.engine {
            Engine::Plain(regex) => Ok(regex.is_match(value)),
            Engine::Fancy(regex) => {
                bounded(value)?;
                regex.is_match(value).map_err(|_| PatternFault::TooSlow)
            }
        }
    }
}

fn bounded(value: &str) -> Result<(), PatternFault> {
    if value.len() > FANCY_VALUE_BYTES_MAX {
        return Err(PatternFault::TooLong { value_bytes: value.len() });
    }
    Ok(())
}

/// An engine's message may draw the pattern over several lines; the last one says what is wrong.
fn last_line(message: &str) -> String {
    let line = message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(message).trim();
    line.strip_prefix("error: ").unwrap_or(line).replace("Parsing error at", "at")
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(source: String) -> Result<Pattern, String> {
        Pattern::new(&source)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_behind_keeps_the_leading_plus_only() {
        let pattern = Pattern::new(r"[^0-9+]|(?<!^)\+").unwrap();
        assert_eq!(pattern.replace_all("+34 (600) 123+456", "").unwrap(), "+34600123456");
        assert_eq!(pattern.replace_all("600123456", "").unwrap(), "600123456");
    }

    #[test]
    fn a_replacement_is_literal() {
        let plain = Pattern::new("(a)").unwrap();
        assert_eq!(plain.replace_all("cat", "$1$1").unwrap(), "c$1$1t");
        let fancy = Pattern::new("(?=a)(a)").unwrap();
        assert_eq!(fancy.replace_all("cat", "$1").unwrap(), "c$1t");
    }

    #[test]
    fn a_pattern_that_backtracks_without_end_is_a_fault_and_soon() {
        let pattern = Pattern::new("(?:(a|a)*)(?=b)c").unwrap();
        let value = "a".repeat(200);
        let begun = std::time::Instant::now();
        assert_eq!(pattern.replace_all(&value, ""), Err(PatternFault::TooSlow));
        assert_eq!(pattern.is_match(&value), Err(PatternFault::TooSlow));
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn an_innocent_look_behind_passes_on_the_longest_value() {
        let pattern = Pattern::new(r"[^0-9+]|(?<!^)\+").unwrap();
        let value = "1".repeat(FANCY_VALUE_BYTES_MAX);
        assert_eq!(pattern.replace_all(&value, "").unwrap(), value);
        let too_long = "1".repeat(FANCY_VALUE_BYTES_MAX + 1);
        let fault = PatternFault::TooLong { value_bytes: FANCY_VALUE_BYTES_MAX + 1 };
        assert_eq!(pattern.replace_all(&too_long, ""), Err(fault));
    }

    #[test]
    fn a_plain_pattern_takes_a_value_of_any_length() {
        let pattern = Pattern::new("[^0-9]").unwrap();
        assert_eq!(pattern.replace_all(&"1x".repeat(1 << 20), "").unwrap().len(), 1 << 20);
    }

    #[test]
    fn a_broken_pattern_is_named_on_one_line() {
        for source in ["(", "[z-a]", "a**(?", "(?<n", r"\p{Nonsense}", "a{99999999}"] {
            let fault = Pattern::new(source).unwrap_err();
            assert!(!fault.contains('\n') && !fault.is_empty(), "{source}: {fault}");
        }
    }

    #[test]
    fn it_travels_as_its_source() {
        let pattern = Pattern::new(r"(?<!x)\+").unwrap();
        let json = serde_json::to_string(&pattern).unwrap();
        assert_eq!(serde_json::from_str::<Pattern>(&json).unwrap(), pattern);
        assert!(serde_json::from_str::<Pattern>("\"(\"").is_err());
    }
}
