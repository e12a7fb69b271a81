//! What went wrong, from SQL Server's error numbers and from the way to it. Pure.
//!
//! A server's error text may quote a row (`Truncated value: '…'`, `The duplicate key value is (…)`), so only texts
//! known not to are repeated. Of the others a reason has the number, what it means, and the names of constraint, table
//! and column where the text is known to have them.

use super::wire::Refused;
use crate::fault::{Class, Fault, plain};
use std::io;
use std::time::Duration;

/// Longest part of a server's text in a reason.
const TEXT_CHARS_MAX: usize = 240;

/// Why a call did not succeed.
#[derive(Debug)]
pub(super) enum Broken {
    /// There is no connection.
    Refused(Refused),
    /// The server says so.
    Server { number: u32, state: u8, class: u8, text: String },
    /// The connection failed.
    Io(io::Error),
    /// What came is not TDS, or not what was asked for.
    Nonsense(String),
    /// The login is taken elsewhere.
    Routed(String, u16),
}

impl From<Refused> for Broken {
    fn from(refused: Refused) -> Self {
        Broken::Refused(refused)
    }
}

impl From<tiberius::error::Error> for Broken {
    fn from(error: tiberius::error::Error) -> Self {
        use tiberius::error::Error;
        match error {
            Error::Server(token) => Broken::Server {
                number: token.code(),
                state: token.state(),
                class: token.class(),
                text: token.message().to_owned(),
            },
            Error::Io { kind, message } => Broken::Io(io::Error::new(kind, message)),
            Error::Tls(text) => Broken::Nonsense(text),
            // A named instance is of no use beside a port.
            Error::Routing { host, port } => {
                let host = host.split('\\').next().unwrap_or_default().to_owned();
                Broken::Routed(host, port)
            }
            Error::Protocol(text) => Broken::Nonsense(text.into_owned()),
            // Their texts may quote a value that did not convert.
            Error::Encoding(_) | Error::Conversion(_) | Error::BulkInput(_) => {
                Broken::Nonsense("a value that cannot be read".to_owned())
            }
            Error::Utf8 | Error::Utf16 | Error::ParseInt(_) => {
                Broken::Nonsense("a text that cannot be read".to_owned())
            }
        }
    }
}

impl Broken {
    /// The fault that this is, and why; `timeout` is what the call had.
    pub(super) fn fault(&self, timeout: Duration) -> Fault {
        match self {
            Broken::Server { number, state, class, text } => {
                self::class(*number, *class).fault(reason(*number, *state, text))
            }
            Broken::Io(error) | Broken::Refused(Refused::Io(error)) => Fault::down(lost(error, timeout)),
            Broken::Refused(Refused::Before(fault)) => fault.clone(),
            Broken::Refused(Refused::WithoutTls) => {
                Fault::down("the server has no TLS. Set tls: prefer if the connection may be in the clear")
            }
            Broken::Refused(Refused::OnlyTls) => {
                Fault::down("the server takes encrypted connections only. Set tls: require, or prefer")
            }
            Broken::Refused(Refused::Tls(error)) => {
                let text = one_line(&error.to_string());
                let hint = match text.contains("certificate") {
                    true => ". Set ca_file to what signed it, or certificate: false",
                    false => "",
                };
                Fault::down(format!("TLS: {text}{hint}"))
            }
            Broken::Refused(Refused::Nonsense(what)) => nonsense(what),
            Broken::Nonsense(what) => nonsense(what),
            Broken::Routed(host, port) => {
                Fault::down(format!("the server sends us on to \"{}:{port}\"", one_line(host)))
            }
        }
    }
}

fn nonsense(what: &str) -> Fault {
    Fault::down(format!("the server does not speak TDS: {}", one_line(what)))
}

fn lost(error: &io::Error, timeout: Duration) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            format!("no answer within {} s", timeout.as_secs_f32())
        }
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ => one_line(&plain(error)),
    }
}

/// What a number says of its fault. Unlisted ones go by their class, the severity: 13 is a deadlock's, 17 to 19 are
/// the server's resources, from 20 on it ends the connection, and what is below is the statement's own fault.
fn class(number: u32, class: u8) -> Class {
    match number {
        // Unique constraint, unique index.
        2_627 | 2_601 => Class::Duplicate,

        // No locks left; deadlock, twice; lock wait; latch waits.
        1_204 | 1_205 | 1_211 | 1_222 | 844..=847
        // The data moved under a dirty read; the plan took too long; waits for memory.
        | 601 | 8_628 | 8_645 | 8_651
        // The transaction is gone or doomed; snapshot and in-memory conflicts.
        | 3_902 | 3_903 | 3_930 | 3_960 | 3_961 | 41_301 | 41_302 | 41_305 | 41_325 | 41_839
        // A table that another session has created since we looked.
        | 2_714 => Class::Again,

        // Login: refused, from an untrusted domain, disabled, locked, expired, database cannot be opened, shutting down,
        // paused, being upgraded, too many connections. While it runs, a changed password must lose nothing.
        4_060 | 4_221 | 17_142 | 17_187 | 17_188 | 17_189 | 17_197 | 17_809 | 17_830 | 17_892
        | 18_401 | 18_450..=18_452 | 18_456 | 18_461 | 18_470 | 18_486..=18_488 | 6_005
        // Database in recovery, restoring, restricted, offline, suspect, single user, in transition, mirrored, read-only.
        | 921..=924 | 926..=927 | 942 | 945 | 952 | 954..=956 | 3_906 | 3_908 | 5_063..=5_064
        // Availability groups: this replica takes no connections, is no longer the one, has no quorum.
        | 976 | 978..=979 | 981..=983 | 988
        // Memory; disk I/O; log full; filegroup full.
        | 701 | 802 | 823..=825 | 832 | 1_101 | 1_105 | 9_001 | 9_002
        // The session was killed; the other side of a pipe or a socket is gone, as a linked component words it.
        | 596 | 64 | 121 | 233 | 258 | 10_053 | 10_054 | 10_060 | 10_061
        // Azure: limits reached, throttled, moved, stopped, firewall.
        | 10_922 | 10_928..=10_930 | 10_936 | 40_143 | 40_166 | 40_197 | 40_501 | 40_532 | 40_540 | 40_544
        | 40_549..=40_553 | 40_613..=40_615 | 40_642 | 40_648 | 40_671 | 40_675 | 42_108 | 42_109 | 42_119
        | 47_073 | 47_132 | 47_137 | 47_138 | 49_918..=49_920 => Class::Down,

        _ => match class {
            13 => Class::Again,
            0..=16 => Class::Failed,
            17.. => Class::Down,
        },
    }
}

fn reason(number: u32, state: u8, text: &str) -> String {
    let name = |place| quoted(text, place).map(|name| format!(" \"{name}\"")).unwrap_or_default();
    let meaning = match number {
        207 => format!("there is no column{}", name(0)),
        208 => format!("there is no table{}", name(0)),
        229 => format!("no permission on{}", name(0)),
        230 => format!("no permission on column{} of{}", name(0), name(1)),
        515 => format!("column{} of table{} takes no null", name(0), name(1)),
        544 => format!("table{} counts its key up by itself", name(0)),
        547 => format!("constraint{} of table{} is violated", name(0), name(2)),
        2_601 => format!("unique index{} of table{} has that value already", name(1), name(0)),
        2_627 => format!("unique constraint{} of table{} has that value already", name(0), name(1)),
        2_628 => format!("the value is too long for column{} of table{}", name(1), name(0)),
        8_152 => "the value is too long for its column".to_owned(),
        220 | 8_115 => "the number is too large for its column".to_owned(),
        241 | 242 | 295 | 296 => "the time does not fit its column".to_owned(),
        245 | 8_114 | 206 | 529 => "the value does not fit its column's type".to_owned(),
        // The texts of classes 17 and above, and of these numbers, are about the server.
        _ if says_nothing_of_rows(number) => one_line(text),
        _ => "its text is withheld, since it may quote a row".to_owned(),
    };
    format!("{meaning} (SQL Server error {number}, state {state})")
}

/// Numbers whose text names sessions, logins, databases and tables at most.
fn says_nothing_of_rows(number: u32) -> bool {
    !matches!(number, 2_627 | 2_601)
        && (class(number, 0) != Class::Failed
            || matches!(number, 102 | 156 | 201 | 213 | 916 | 1_934 | 2_812 | 4_104))
}

/// A name of a text in quotes, single or double, by its place; none that could be more than a name.
fn quoted(text: &str, place: usize) -> Option<String> {
    let mut rest = text;
    let mut name = None;
    for _ in 0..=place {
        let open = rest.find(['\'', '"'])?;
        let quote = rest.as_bytes()[open];
        let inside = &rest[open + 1..];
        let close = inside.find(char::from(quote))?;
        name = Some(&inside[..close]);
        rest = &inside[close + 1..];
    }
    let is_name =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '#' | '@' | '.' | '-' | ' ' | '[' | ']');
    name.filter(|name| (1..=128 * 4).contains(&name.len()) && name.chars().all(is_name)).map(str::to_owned)
}

/// A peer's text as part of a line of ours.
fn one_line(text: &str) -> String {
    let text: String =
        text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u32, class: u8, text: &str) -> Fault {
        Broken::Server { number, state: 1, class, text: text.to_owned() }.fault(Duration::from_secs(10))
    }

    #[test]
    fn what_may_pass_waits_and_what_stays_fails() {
        let down = [
            (18_456, 14),
            (4_060, 11),
            (18_401, 14),
            (921, 14),
            (922, 14),
            (3_906, 16),
            (976, 14),
            (978, 14),
            (983, 14),
            (10_928, 16),
            (10_929, 16),
            (40_501, 20),
            (40_613, 17),
            (233, 16),
            (10_053, 16),
            (10_054, 16),
            (64, 16),
            (701, 17),
            (802, 17),
            (9_002, 17),
            (1_105, 17),
            (596, 21),
            (99_999, 17),
            (99_999, 20),
            (99_999, 255),
        ];
        for (number, class) in down {
            let fault = server(number, class, "x");
            assert!(matches!(fault, Fault::Again { target_down: true, .. }), "{number}: {fault:?}");
        }
        for (number, class) in [(1_205, 13), (1_222, 16), (1_204, 19), (3_960, 16), (2_714, 16), (99_999, 13)]
        {
            let fault = server(number, class, "x");
            assert!(matches!(fault, Fault::Again { target_down: false, .. }), "{number}: {fault:?}");
        }
        for (number, class) in [(2_627, 14), (2_601, 14)] {
            assert!(matches!(server(number, class, "x"), Fault::Duplicate(_)), "{number}");
        }
        let failed = [
            (515, 16),
            (547, 16),
            (8_152, 16),
            (2_628, 16),
            (245, 16),
            (8_114, 16),
            (208, 16),
            (207, 16),
            (229, 14),
            (230, 14),
            (102, 15),
            (50_000, 16),
            (99_999, 16),
            (99_999, 0),
        ];
        for (number, class) in failed {
            assert!(matches!(server(number, class, "x"), Fault::Failed(_)), "{number}");
        }
    }

    #[test]
    fn a_reason_names_constraint_table_and_column_and_no_value() {
        let cases = [
            (
                2_627,
                "Violation of UNIQUE KEY constraint 'UQ_id'. Cannot insert duplicate key in object 'dbo.orders'. The \
                 duplicate key value is (MUELLER).",
                "unique constraint \"UQ_id\" of table \"dbo.orders\" has that value already (SQL Server error 2627, \
                 state 1)",
            ),
            (
                2_628,
                "String or binary data would be truncated in table 'lab.dbo.orders', column 'name'. Truncated value: \
                 'MUELLER'.",
                "the value is too long for column \"name\" of table \"lab.dbo.orders\" (SQL Server error 2628, state 1)",
            ),
            (
                547,
                "The INSERT statement conflicted with the CHECK constraint \"CK_sex\". The conflict occurred in \
                 database \"lab\", table \"dbo.orders\", column 'sex'.",
                "constraint \"CK_sex\" of table \"dbo.orders\" is violated (SQL Server error 547, state 1)",
            ),
            (
                515,
                "Cannot insert the value NULL into column 'born', table 'lab.dbo.orders'; column does not allow nulls. \
                 INSERT fails.",
                "column \"born\" of table \"lab.dbo.orders\" takes no null (SQL Server error 515, state 1)",
            ),
            (
                245,
                "Conversion failed when converting the nvarchar value 'MUELLER' to data type int.",
                "the value does not fit its column's type (SQL Server error 245, state 1)",
            ),
            (
                50_000,
                "MUELLER is on the blacklist",
                "its text is withheld, since it may quote a row (SQL Server error 50000, state 1)",
            ),
        ];
        for (number, text, expected) in cases {
            assert_eq!(server(number, 16, text).reason(), expected);
        }
        // A server in another language quotes otherwise: then there is no name, and still no value.
        let fault = server(2_628, 16, "In 'MUELLER''S' und (ab) column \u{ab}x\u{bb}: '<b>'");
        assert!(!fault.reason().contains("<b>"), "{fault}");
    }

    #[test]
    fn a_text_about_the_server_is_repeated_on_one_line_and_not_at_length() {
        let fault = server(18_456, 14, "Login failed for user 'hl7'.\r\n\u{1b}[2Jforged");
        assert_eq!(
            fault.reason(),
            "Login failed for user 'hl7'.   [2Jforged (SQL Server error 18456, state 1)"
        );
        assert!(server(9_002, 17, &"log ".repeat(10_000)).reason().len() < 400);
    }

    #[test]
    fn a_lost_connection_says_how() {
        let cases = [
            (io::ErrorKind::TimedOut, "no answer within 10 s"),
            (io::ErrorKind::UnexpectedEof, "the server closed the connection"),
            (io::ErrorKind::ConnectionRefused, "connection refused"),
        ];
        for (kind, expected) in cases {
            let fault = Broken::Io(kind.into()).fault(Duration::from_secs(10));
            assert_eq!(fault, Fault::down(expected));
        }
    }
}
