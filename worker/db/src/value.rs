//! What goes into a column and comes out of one.

use jiff::civil::DateTime;
use std::fmt;

/// A parameter, or a value read.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
    /// Date and time without a zone, to the microsecond.
    Time(DateTime),
}

impl Value {
    /// As a `debug_values` log line shows it.
    pub fn shown(&self) -> String {
        match self {
            Value::Null => "NULL".to_owned(),
            Value::Integer(n) => n.to_string(),
            Value::Text(text) => format!("{text:?}"),
            Value::Time(time) => time.to_string(),
        }
    }
}

/// Kind and length only: a value may be a patient's.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Integer(_) => f.write_str("integer"),
            Value::Text(text) => write!(f, "text of {} characters", text.chars().count()),
            Value::Time(_) => f.write_str("time"),
        }
    }
}
