//! The standard set (`--ceilings`): the figures that are compared from version to version, each beside what the machine
//! allows for the same work in the same minute, so that a machine that slows down slows both. A module a group.

mod documents;
mod latency;
mod line;
mod memory;
mod throughput;
mod tls;

use super::channels::{Purpose, Wanted};
use super::load::Shape;
use super::own::Own;
use super::report::Figures;
use super::template::Template;
use super::{Arguments, Fail, Outcome, ceilings, output, run_number};
use line::Line;
pub(super) use memory::closed_port;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Bounds the room that the files of one figure take.
const ADTS_MAX: u64 = 60_000;

/// How often the machine and the server are measured in turn.
const PAIRS: usize = 5;

/// One figure, or a few that come from the same run.
struct Item {
    name: &'static str,
    measure: fn(&Bench) -> Result<Vec<Line>, Fail>,
}

/// In the order in which they are measured: what leaves most files behind comes last, since removing them slows a disk.
const ITEMS: &[Item] = &[
    Item { name: "start", measure: memory::start },
    Item { name: "idle", measure: memory::idle },
    Item { name: "adt-1", measure: throughput::one_connection },
    Item { name: "adt-16", measure: throughput::sixteen_connections },
    Item { name: "cpu", measure: throughput::processor_time },
    Item { name: "open-loop", measure: latency::open_loop },
    Item { name: "hang", measure: latency::beside_a_hung_peer },
    Item { name: "large", measure: latency::beside_large_messages },
    Item { name: "tls", measure: tls::sixteen_connections },
    Item { name: "oru-100k", measure: documents::hundred_kib },
    Item { name: "oru-1m", measure: documents::one_mib },
    Item { name: "oru-10m", measure: documents::ten_mib },
    Item { name: "memory", measure: memory::sixteen_large_senders },
    Item { name: "waiting", measure: memory::waiting },
    Item { name: "burst", measure: throughput::burst },
    Item { name: "sustained", measure: throughput::sustained },
];

/// The names that `--only` knows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ITEMS.iter().map(|item| item.name)
}

#[derive(Serialize)]
struct Set {
    version: &'static str,
    file_system: String,
    lines: Vec<Line>,
}

/// Carries out `bench --ceilings`.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let bench = Bench { arguments };
    let mut lines = Vec::new();
    for item in ITEMS {
        if arguments.only.is_empty() || arguments.only.iter().any(|name| name == item.name) {
            lines.extend((item.measure)(&bench)?);
        }
    }
    let file_system = super::own::file_system(&bench.parent()?);
    let mut out = output::stdout();
    if !arguments.json {
        line::print(&lines, &mut out)?;
        writeln!(out, "file system: {file_system}\n")?;
    }
    let fault = lines.iter().find_map(Line::fault);
    let set = Set { version: env!("CARGO_PKG_VERSION"), file_system, lines };
    let json = serde_json::to_string(&set).expect("numbers and texts are always JSON");
    writeln!(out, "{json}")?;
    fault.map_or(Ok(()), |fault| Err(Fail::Failed(fault)))
}

/// What every figure is measured with.
struct Bench<'a> {
    arguments: &'a Arguments,
}

impl Bench<'_> {
    /// Where servers get their folders.
    fn parent(&self) -> Result<std::path::PathBuf, Fail> {
        let parent = self.arguments.folder.clone().unwrap_or_else(std::env::temp_dir);
        parent.canonicalize().map_err(|error| Fail::io(format!("use \"{}\"", parent.display()), &error))
    }

    fn start(&self, wanted: &Wanted) -> Result<Own, Fail> {
        Own::start(self.arguments.folder.as_deref(), self.arguments.keep, wanted)
    }

    /// How long one figure is measured: 4 s, or what `--seconds` says.
    fn time(&self) -> Duration {
        Duration::from_secs(self.arguments.seconds.unwrap_or(4).into())
    }

    /// The number of messages that `--messages` says, or this.
    fn messages(&self, usual: u64) -> u64 {
        self.arguments.messages.unwrap_or(usual)
    }

    fn closed_loop(&self, connections: usize, window: usize, messages: u64) -> Shape {
        Shape::closed(connections, window, self.messages(messages), self.time())
    }

    /// What is being measured, on a terminal only.
    fn say(&self, what: &str) {
        if !self.arguments.json && std::io::stderr().is_terminal() {
            output::complain(&format!("measuring {what}"));
        }
    }

    /// The `journal` ceiling and the server in turn, so that both meet the same minutes of the disk.
    fn beside_journal(
        &self,
        own: &mut Own,
        (work, purpose): (&'static str, Purpose),
        template: &Template,
        shape: &Shape,
    ) -> Result<Vec<[Figures; 2]>, Fail> {
        let mut pairs = Vec::new();
        for n in 0..PAIRS {
            self.say(&format!("pair {} of {PAIRS}", n + 1));
            let journal = self.echo(Some(own), template, shape)?;
            own.settle();
            pairs.push([journal, own.measure(work, purpose, template, shape)?]);
        }
        Ok(pairs)
    }

    /// The ceiling of acknowledgments: `echo` alone, or `journal` in the folder of the server that it stands beside.
    fn echo(&self, journal_in: Option<&Own>, template: &Template, shape: &Shape) -> Result<Figures, Fail> {
        let failed = |error: std::io::Error| Fail::io("measure a ceiling", &error);
        let folder = journal_in.map(|own| own.folder().join("ceiling.journal.d"));
        if let Some(folder) = &folder {
            let _ = std::fs::remove_dir_all(folder);
            std::fs::create_dir(folder).map_err(failed)?;
        }
        let echo = ceilings::Echo::start(folder.as_deref()).map_err(failed)?;
        if let Some(own) = journal_in {
            own.settle();
        }
        let shape = Shape { check: false, ..shape.clone() };
        let outcome = super::load(echo.address, template, &shape, 0)?;
        echo.stop().map_err(failed)?;
        Ok(Figures::of("ceiling", template, &shape, &outcome))
    }

    /// Messages a second when their archive files are all that is made of them.
    fn files(&self, folder: &Path, template: &Template, most: u64) -> Result<f64, Fail> {
        let frame = template.frame(0);
        ceilings::files(folder, &frame[1..frame.len() - 2], self.time(), most)
            .map_err(|error| Fail::io("write the ceiling's files", &error))
    }

    fn run(&self) -> u32 {
        run_number()
    }
}

/// The middle one of an odd number; the upper of the two in the middle otherwise.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(vec![5.0, 1.0, 3.0]), 3.0);
        assert_eq!(median(vec![2.0]), 2.0);
    }

    #[test]
    fn every_item_has_a_name_of_its_own() {
        let distinct: std::collections::BTreeSet<&str> = names().collect();
        assert_eq!(distinct.len(), ITEMS.len());
    }
}
