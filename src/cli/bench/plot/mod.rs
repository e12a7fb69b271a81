//! What a thing costs as there is more of it (`--plot`): messages that wait, files in a folder, channels, pages of a PDF,
//! segments of a message. Straight lines or better are wanted; a curve that bends upwards is a fault. Processor time is
//! measured where it can be, since it needs no quiet machine.

mod svg;
mod work;

use super::{Arguments, Fail, Outcome, output};
use crate::cli::output::{Align, Table};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::Path;
use svg::Chart;

/// How much steeper the second half of a curve may be than the first: what is measured has some noise.
const BEND_MAX: f64 = 1.3;
/// A second half that adds less than this share of the whole is flat, however its slope compares with that of the first.
const FLAT: f64 = 0.15;

/// A curve: how much there is, and what it costs.
#[derive(Serialize)]
struct Curve {
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    points: Vec<(f64, f64)>,
}

#[derive(Serialize)]
struct Plot<'a> {
    version: &'static str,
    curves: &'a [Curve],
}

/// Carries out `bench --plot FOLDER`: a file for each curve, and all points in `plot.json`.
pub(super) fn run(arguments: &Arguments, folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder)
        .map_err(|error| Fail::io(format!("make \"{}\"", folder.display()), &error))?;
    let work = work::Work { folder: arguments.folder.as_deref(), keep: arguments.keep };
    let say = |what: &str| {
        if !arguments.json && std::io::stderr().is_terminal() {
            output::complain(&format!("measuring {what}"));
        }
    };
    let mut curves = Vec::new();
    say("pages of a PDF");
    curves.extend(work.pages()?);
    say("segments of a message");
    curves.extend(work.segments()?);
    say("channels");
    curves.extend(work.channels()?);
    say("files in a folder");
    curves.extend(work.files()?);
    say("messages that wait");
    curves.extend(work.waiting()?);
    for Curve { name, title, x, y, points } in &curves {
        write(folder, &format!("{name}.svg"), &Chart { title, x, y, points }.svg())?;
    }
    let plot = Plot { version: env!("CARGO_PKG_VERSION"), curves: &curves };
    let json = serde_json::to_string(&plot).expect("numbers and texts are always JSON");
    write(folder, "plot.json", &json)?;
    let mut out = output::stdout();
    if !arguments.json {
        print(&curves, &mut out)?;
    }
    writeln!(out, "{json}")?;
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> Outcome {
    let path = folder.join(name);
    std::fs::write(&path, text).map_err(|error| Fail::io(format!("write \"{}\"", path.display()), &error))
}

fn print(curves: &[Curve], out: &mut impl Write) -> std::io::Result<()> {
    let heads = ["COST", "OF THE LEAST", "OF THE MOST", "SECOND HALF BY FIRST", "STRAIGHT OR BETTER"];
    let mut table =
        Table::new(&heads.map(|head| (head, if head == "COST" { Align::Left } else { Align::Right })));
    for curve in curves {
        let text =
            |point: Option<&(f64, f64)>| point.map_or_else(String::new, |(x, y)| format!("{x:.0}: {y:.3}"));
        table.row(vec![
            format!("{}, {}", curve.title, curve.y),
            text(curve.points.first()),
            text(curve.points.last()),
            format!("{:.2}", curve.bend()),
            if curve.is_straight() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.print(out)
}

impl Curve {
    /// The slope of the second half by that of the first; one is a straight line.
    fn bend(&self) -> f64 {
        let [first, middle, last] = self.halves();
        let slope = |from: (f64, f64), to: (f64, f64)| (to.1 - from.1) / (to.0 - from.0);
        let before = slope(first, middle);
        if before <= 0.0 { f64::NAN } else { slope(middle, last) / before }
    }

    fn is_straight(&self) -> bool {
        let [_, middle, last] = self.halves();
        last.1 - middle.1 <= last.1 * FLAT || self.bend() <= BEND_MAX
    }

    fn halves(&self) -> [(f64, f64); 3] {
        let points = &self.points;
        [points[0], points[points.len() / 2], points[points.len() - 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(cost: impl Fn(f64) -> f64) -> Curve {
        let points = [0.0, 1.0, 2.0, 3.0, 4.0].map(|x| (x, cost(x))).to_vec();
        Curve { name: "a", title: "a", x: "x", y: "y", points }
    }

    #[test]
    fn a_square_is_not_straight_and_a_line_or_a_root_is() {
        assert!(curve(|x| 3.0 + 2.0 * x).is_straight());
        assert!(curve(f64::sqrt).is_straight());
        assert!(curve(|_| 7.0).is_straight());
        assert!(!curve(|x| x * x).is_straight());
    }
}
