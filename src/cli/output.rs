//! What the commands print with: tables, times and sizes as people read them, colours and progress where a person looks.
//! Text that may come from a peer has its control characters escaped.

use crate::logging::escape_controls;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::time::{Duration, Instant};

/// Standard output, taken once by each command.
pub(super) fn stdout() -> StdoutLock<'static> {
    io::stdout().lock()
}

/// One line on standard error. Every line of it begins with the program's name, as a shell's user expects.
pub(super) fn complain(text: &str) {
    let mut stderr = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(stderr, "hl7server: {}", escape_controls(line));
    }
}

/// What an error of the system says, as this program words things: lower case, without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    // A name in capitals stays as it is.
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().to_string() + &text[first.len_utf8()..]
        }
        _ => text.to_owned(),
    }
}

/// Whether standard output takes colours: a terminal that knows them, and nobody who asked for none (no-color.org).
pub(super) fn has_colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal()
        && set("NO_COLOR").is_none()
        && set("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// What a cell says by its colour; its text says it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// As it should be.
    Green,
    /// On its way, or worth a look.
    Yellow,
    /// Somebody must act.
    Red,
    /// Of no account.
    Grey,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Colour::Green => "\x1b[32m",
            Colour::Yellow => "\x1b[33m",
            Colour::Red => "\x1b[31m",
            Colour::Grey => "\x1b[90m",
        }
    }
}

/// Work over a second on a terminal: a bar on standard error. Otherwise nothing.
pub(super) struct Progress {
    bar: ProgressBar,
    begun: Instant,
    wanted: bool,
}

impl Progress {
    /// Shorter work shows no bar.
    const AFTER: Duration = Duration::from_secs(1);

    /// Of so many `what`.
    pub(super) fn new(total: u64, what: &'static str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = "{bar:30} {human_pos} of {human_len} {msg}, {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a template of known names"));
        bar.set_message(what);
        Progress { bar, begun: Instant::now(), wanted: io::stderr().is_terminal() }
    }

    /// So much is done.
    pub(super) fn reached(&self, done: u64) {
        if self.wanted && self.begun.elapsed() >= Progress::AFTER {
            if self.bar.is_hidden() {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            self.bar.set_position(done);
        }
    }

    /// The bar goes.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Columns wide enough for their widest cell, as `docker ps` prints them; numbers stand to the right.
pub(super) struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    paint: Option<fn(&str, &str) -> Option<Colour>>,
}

/// Where a column's cells stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

impl Table {
    pub(super) fn new(heads: &[(&'static str, Align)]) -> Table {
        Table { heads: heads.to_vec(), rows: Vec::new(), paint: None }
    }

    /// Colours cells, by head and text, where standard output takes colours.
    pub(super) fn painted(mut self, paint: fn(&str, &str) -> Option<Colour>) -> Table {
        self.paint = Some(paint).filter(|_| has_colours());
        self
    }

    /// Adds a row; its cells are those of the heads, in order.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells.iter().map(|cell| escape_controls(cell).into_owned()).collect());
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .heads
            .iter()
            .enumerate()
            .map(|(n, (head, _))| {
                self.rows.iter().map(|row| width(&row[n])).max().unwrap_or(0).max(width(head))
            })
            .collect();
        let heads: Vec<&str> = self.heads.iter().map(|(head, _)| *head).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(String::as_str).collect());
        for (n, cells) in std::iter::once(heads).chain(rows).enumerate() {
            let mut line = String::new();
            for ((cell, space), (head, align)) in cells.iter().zip(&widths).zip(&self.heads) {
                let padding = " ".repeat(space - width(cell));
                let (left, right) =
                    if *align == Align::Right { (&padding[..], "") } else { ("", &padding[..]) };
                let colour = self.paint.filter(|_| n > 0).and_then(|paint| paint(head, cell));
                let (on, off) = colour.map_or(("", ""), |colour| (colour.code(), "\x1b[0m"));
                line.extend([left, on, cell, off, right, "  "]);
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `4s`, `12m`, `3h`, `9d`: the largest unit that is not zero, for columns of a table.
pub(super) fn short_time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// `812 B`, `18.4 KiB`, `2.0 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let value = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", value / KIB),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", value / KIB / KIB),
        _ => format!("{:.1} GiB", value / KIB / KIB / KIB),
    }
}

/// Local date and time of a Unix time in microseconds.
pub(super) fn local_time(unix_us: i64) -> String {
    match jiff::Timestamp::from_microsecond(unix_us) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// Microseconds since the Unix epoch, now.
pub(super) fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// From then to now; zero where then lies ahead.
pub(super) fn since(unix_us: i64) -> Duration {
    Duration::from_micros(u64::try_from(now_us() - unix_us).unwrap_or(0))
}

/// Thousands in groups: `12,600`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_controls_are_escaped() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        table.row(vec!["ä".to_owned(), "1".to_owned()]);
        table.row(vec!["b\u{1b}".to_owned(), "22".to_owned()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME      N\nä         1\nb\\x{1b}  22\n");
    }

    #[test]
    fn errors_of_the_system_are_lower_case_and_without_numbers() {
        assert_eq!(plain(&io::Error::from_raw_os_error(111)), "connection refused");
        assert_eq!(plain(&io::Error::other("EOF came")), "EOF came");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(short_time(Duration::from_secs(86_399)), "23h");
    }
}
