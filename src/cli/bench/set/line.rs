//! One line of the set: a figure of the server, what the machine allows for the same work, their ratio, and what is to be
//! reached.

use super::super::super::output::{Align, Colour, Table, grouped};
use super::super::report::Figures;
use super::median;
use serde::Serialize;
use std::io::{self, Write};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// Messages a second.
    PerSecond,
    Microseconds,
    Bytes,
}

/// What is to be reached: a share of the machine's figure where there is one, otherwise an amount.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// At most this amount, though the machine's figure stands beside it.
    Amount(f64),
}

/// A figure and how it compares.
#[derive(Serialize)]
pub(super) struct Line {
    name: &'static str,
    work: String,
    unit: Unit,
    server: f64,
    machine: Option<Machine>,
    ratio: Option<f64>,
    goal: Goal,
    reached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// The loads it comes from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loads: Vec<Figures>,
}

#[derive(Serialize)]
struct Machine {
    what: &'static str,
    figure: f64,
}

impl Line {
    /// A figure by itself.
    pub(super) fn amount(
        name: &'static str,
        work: impl Into<String>,
        unit: Unit,
        server: f64,
        goal: Goal,
    ) -> Line {
        let reached = match goal {
            Goal::AtLeast(least) => server >= least,
            Goal::AtMost(most) | Goal::Amount(most) => server <= most,
        };
        let (machine, ratio, note, loads) = (None, None, None, Vec::new());
        Line { name, work: work.into(), unit, server, machine, ratio, goal, reached, note, loads }
    }

    /// Beside what the machine allows: `goal` is of the ratio.
    pub(super) fn beside(mut self, what: &'static str, figure: f64) -> Line {
        self.machine = Some(Machine { what, figure });
        let ratio = if figure > 0.0 { self.server / figure } else { f64::NAN };
        self.in_ratio(ratio)
    }

    /// A ratio that is not that of the two figures, as a median of pairs is not.
    pub(super) fn in_ratio(mut self, ratio: f64) -> Line {
        self.ratio = Some(ratio);
        self.reached = match self.goal {
            Goal::AtLeast(least) => ratio >= least,
            Goal::AtMost(most) => ratio <= most,
            Goal::Amount(most) => self.server <= most,
        };
        self
    }

    /// The medians of what was measured in turn, the machine's and the server's, and the median of the pairs' ratios.
    pub(super) fn of_pairs(
        name: &'static str,
        work: &str,
        (unit, goal): (Unit, Goal),
        what: &'static str,
        pairs: &[[Figures; 2]],
        figure_of: fn(&Figures) -> f64,
    ) -> Line {
        let pairs: Vec<[f64; 2]> = pairs.iter().map(|pair| pair.each_ref().map(figure_of)).collect();
        let median_of = |which: fn(&[f64; 2]) -> f64| median(pairs.iter().map(which).collect());
        let each: Vec<String> = pairs
            .iter()
            .map(|[machine, server]| format!("{} of {}", figure(unit, *server), figure(unit, *machine)))
            .collect();
        Line::amount(name, work, unit, median_of(|pair| pair[1]), goal)
            .beside(what, median_of(|pair| pair[0]))
            .in_ratio(median_of(|pair| pair[1] / pair[0]))
            .note(each.join(", "))
    }

    /// What else is to be known of it.
    pub(super) fn note(mut self, note: String) -> Line {
        self.note = Some(note);
        self
    }

    /// Not reached, whatever the figures say.
    pub(super) fn unless(mut self, missed: bool) -> Line {
        self.reached &= !missed;
        self
    }

    /// What it comes from.
    pub(super) fn from(mut self, loads: impl IntoIterator<Item = Figures>) -> Line {
        self.loads.extend(loads);
        self
    }

    /// Why its loads do not count: an answer or a file that is missing.
    pub(super) fn fault(&self) -> Option<String> {
        self.loads.iter().find_map(Figures::fault)
    }
}

/// Prints the table, and below it what is to be known besides.
pub(super) fn print(lines: &[Line], out: &mut impl Write) -> io::Result<()> {
    let heads = ["NAME", "WORK", "SERVER", "MACHINE", "", "RATIO", "GOAL", "REACHED"];
    let align = |head: &str| {
        if matches!(head, "SERVER" | "MACHINE" | "RATIO" | "GOAL") { Align::Right } else { Align::Left }
    };
    let mut table = Table::new(&heads.map(|head| (head, align(head)))).painted(paint);
    for line in lines {
        table.row(vec![
            line.name.to_owned(),
            line.work.clone(),
            figure(line.unit, line.server),
            line.machine.as_ref().map_or_else(String::new, |machine| figure(line.unit, machine.figure)),
            line.machine.as_ref().map_or_else(String::new, |machine| machine.what.to_owned()),
            line.ratio.map_or_else(String::new, ratio),
            line.goal_text(),
            if line.reached { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.print(out)?;
    for line in lines {
        if let Some(note) = &line.note {
            writeln!(out, "{}: {note}", line.name)?;
        }
    }
    Ok(())
}

fn paint(head: &str, cell: &str) -> Option<Colour> {
    match (head, cell) {
        ("REACHED", "yes") => Some(Colour::Green),
        ("REACHED", "no") => Some(Colour::Red),
        _ => None,
    }
}

impl Line {
    fn goal_text(&self) -> String {
        let of = |number: f64| match self.ratio {
            Some(_) => ratio(number),
            None => figure(self.unit, number),
        };
        match self.goal {
            Goal::AtLeast(least) => format!("≥ {}", of(least)),
            Goal::AtMost(most) => format!("≤ {}", of(most)),
            Goal::Amount(most) => format!("≤ {}", figure(self.unit, most)),
        }
    }
}

/// `85%`; `1.46×` above one.
fn ratio(ratio: f64) -> String {
    if ratio > 1.2 { format!("{ratio:.2}×") } else { format!("{:.0}%", ratio * 100.0) }
}

/// A number as people read it, with its unit.
pub(super) fn figure(unit: Unit, number: f64) -> String {
    let whole = |number: f64| grouped(number.round().max(0.0) as u64);
    match unit {
        Unit::PerSecond => format!("{}/s", whole(number)),
        Unit::Microseconds if number < 100.0 => format!("{number:.1} µs"),
        Unit::Microseconds if number < 10_000.0 => format!("{} µs", whole(number)),
        Unit::Microseconds if number < 1e6 => format!("{:.1} ms", number / 1e3),
        Unit::Microseconds => format!("{:.2} s", number / 1e6),
        Unit::Bytes if number < 10_240.0 => format!("{} B", whole(number)),
        Unit::Bytes => format!("{:.1} MiB", number / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_of_the_ratio_where_there_is_one() {
        let line = |goal| Line::amount("a", "b", Unit::PerSecond, 50.0, goal);
        assert!(line(Goal::AtLeast(0.5)).beside("journal", 100.0).reached);
        assert!(!line(Goal::AtLeast(0.5)).beside("journal", 101.0).reached);
        assert!(line(Goal::AtMost(0.5)).beside("journal", 100.0).reached);
        assert!(!line(Goal::AtMost(0.5)).reached);
        assert!(line(Goal::Amount(50.0)).beside("journal", 1.0).reached);
        assert!(!line(Goal::AtLeast(0.5)).beside("journal", 0.0).reached);
        assert!(!line(Goal::AtLeast(0.5)).beside("journal", 100.0).unless(true).reached);
    }

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(figure(Unit::PerSecond, 15_000.4), "15,000/s");
        assert_eq!(figure(Unit::Microseconds, 28.25), "28.2 µs");
        assert_eq!(figure(Unit::Microseconds, 12_340.0), "12.3 ms");
        assert_eq!(figure(Unit::Bytes, 128.0), "128 B");
        assert_eq!(figure(Unit::Bytes, 167_772_160.0), "160.0 MiB");
        assert_eq!((ratio(0.853), ratio(1.46)), ("85%".to_owned(), "1.46×".to_owned()));
    }
}
