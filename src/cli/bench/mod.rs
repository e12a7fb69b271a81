//! `bench`: how fast messages are acknowledged and delivered. See [`load`] for the generator and [`ceilings`] for what
//! the machine allows.

mod ceilings;
mod histogram;
mod load;
mod own;
mod report;
mod template;

use super::{Fail, Outcome, output};
use load::Shape;
use report::{Ceilings, Figures, Report};
use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use template::{Kind, Template};

/// Measure how fast messages are acknowledged and delivered
///
/// Starts a server of its own in a temporary folder, or measures one that runs already (--to). Every message has its
/// own control id, patients are many, and every acknowledgment is checked. The last line is one JSON object.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Measure this server instead of one of our own; it keeps what it is sent
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["ceilings", "folder", "keep"])]
    to: Option<String>,
    /// What to send
    #[arg(long, value_enum, default_value_t = Kind::Adt)]
    kind: Kind,
    /// Size of an ADT, or of the PDF in an ORU [default: 750, 100KiB]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    size: Option<usize>,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Messages that a connection sends before it waits for an answer
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// End after so long [default: 10; with --ceilings 5 for each figure]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: Option<u32>,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// Send so many a second whatever is answered, and count a latency from when its message was due
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Measure the standard set beside what the machine allows: echo, journal, files, copy
    #[arg(long, conflicts_with_all = ["kind", "size", "connections", "window", "rate"])]
    ceilings: bool,
    /// Put the server's folder in DIR: what is measured is its file system
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Leave the server's folder behind
    #[arg(long)]
    keep: bool,
    /// Print the JSON line only
    #[arg(long)]
    json: bool,
}

/// Carries out `bench`.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let report = match (&arguments.to, arguments.ceilings) {
        (Some(to), _) => foreign_server(arguments, to)?,
        (None, false) => own_server(arguments)?,
        (None, true) => standard_set(arguments)?,
    };
    let mut out = output::stdout();
    if !arguments.json {
        report.print(&mut out)?;
    }
    let line = serde_json::to_string(&report).expect("numbers and texts are always JSON");
    writeln!(out, "{line}")?;
    match report.fault() {
        Some(fault) => Err(Fail::Failed(fault)),
        None => Ok(()),
    }
}

impl Arguments {
    fn shape(&self) -> Shape {
        let seconds = match (self.seconds, self.messages) {
            (Some(seconds), _) => seconds,
            (None, Some(_)) => 86_400,
            (None, None) => 10,
        };
        Shape {
            connections: self.connections.into(),
            window: self.window.into(),
            messages: self.messages.unwrap_or(u64::MAX),
            time: Duration::from_secs(seconds.into()),
            rate: self.rate,
            check: true,
        }
    }

    fn template(&self) -> Template {
        let usual = match self.kind {
            Kind::Adt => 750,
            Kind::Oru => 100 << 10,
        };
        Template::of(self.kind, self.size.unwrap_or(usual), run_number())
    }
}

fn foreign_server(arguments: &Arguments, to: &str) -> Result<Report, Fail> {
    let address = to
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| Fail::Failed(format!("could not resolve \"{to}\"")))?;
    let template = arguments.template();
    let shape = arguments.shape();
    let outcome = load(address, &template, &shape, 0)?;
    Ok(Report::new(vec![Figures::of(name(arguments.kind), &template, &shape, &outcome)]))
}

fn own_server(arguments: &Arguments) -> Result<Report, Fail> {
    let template = arguments.template();
    let shape = arguments.shape();
    let mut own =
        own::Own::start(arguments.folder.as_deref(), arguments.keep, &shape, template.message_bytes())?;
    let figures = own.measure(name(arguments.kind), arguments.kind, &template, &shape)?;
    let mut report = Report::new(vec![figures]);
    own.describe(&mut report);
    Ok(report)
}

/// The figures that are compared from version to version.
fn standard_set(arguments: &Arguments) -> Result<Report, Fail> {
    /// Bounds the room that the files of one figure take.
    const ADTS_MAX: u64 = 60_000;
    const ORUS_MAX: u64 = 300;
    let time = Duration::from_secs(arguments.seconds.unwrap_or(5).into());
    let shape = |connections, window, messages| Shape {
        connections,
        window,
        messages: arguments.messages.unwrap_or(messages),
        time,
        rate: None,
        check: true,
    };
    let set = [
        ("ADT 750 B", Kind::Adt, 750, shape(1, 1, ADTS_MAX)),
        ("ADT 750 B", Kind::Adt, 750, shape(16, 1, ADTS_MAX)),
        ("ADT 750 B", Kind::Adt, 750, shape(16, 16, ADTS_MAX)),
        ("ORU 1 MiB", Kind::Oru, 1 << 20, shape(4, 1, ORUS_MAX)),
    ];
    let run = run_number();
    let largest = Template::of(Kind::Oru, 1 << 20, run).message_bytes();
    let mut own = own::Own::start(arguments.folder.as_deref(), arguments.keep, &set[2].3, largest)?;
    let adt = Template::of(Kind::Adt, 750, run).frame(0);
    let oru = Template::of(Kind::Oru, 1 << 20, run).frame(0);
    let pdf = template::pdf(1 << 20);
    let folder = own.folder().to_path_buf();
    let mut rows = Vec::new();
    // Each figure stands next to its ceilings, so that a machine that slows down slows both.
    for (work, kind, size, shape) in set {
        let template = Template::of(kind, size, run);
        progress(arguments, &format!("{work}, {} × {}: echo", shape.connections, shape.window));
        let echo = ceiling(None, &template, &shape)?;
        progress(arguments, "journal");
        own.settle();
        let journal = ceiling(Some(&folder), &template, &shape)?;
        progress(arguments, "server");
        own.settle();
        let mut figures = own.measure(work, kind, &template, &shape)?;
        progress(arguments, "files");
        own.settle();
        let files = match kind {
            Kind::Adt => ceilings::files(&folder, &adt[1..adt.len() - 2], time, ADTS_MAX),
            Kind::Oru => ceilings::copy(&folder, &oru[1..oru.len() - 2], &pdf, time, ORUS_MAX),
        };
        let files = files.map_err(|error| Fail::io("write the ceiling's files", &error))?;
        figures.ceilings = Some(Ceilings::new(&echo, &journal, kind, files));
        rows.push(figures);
    }
    let mut report = Report::new(rows);
    own.describe(&mut report);
    Ok(report)
}

fn ceiling(
    journal_in: Option<&std::path::Path>,
    template: &Template,
    shape: &Shape,
) -> Result<Figures, Fail> {
    let failed = |error: std::io::Error| Fail::io("measure a ceiling", &error);
    let folder = journal_in.map(|folder| folder.join("ceiling.journal.d"));
    if let Some(folder) = &folder {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir(folder).map_err(failed)?;
    }
    let echo = ceilings::Echo::start(folder.as_deref()).map_err(failed)?;
    let shape = Shape { check: false, ..shape.clone() };
    let outcome = load(echo.address, template, &shape, 0)?;
    echo.stop().map_err(failed)?;
    Ok(Figures::of("ceiling", template, &shape, &outcome))
}

fn load(to: SocketAddr, template: &Template, shape: &Shape, first: u64) -> Result<load::Outcome, Fail> {
    load::run(to, template, shape, first).map_err(|error| Fail::io(format!("go on sending to {to}"), &error))
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Adt => "ADT",
        Kind::Oru => "ORU",
    }
}

/// What is being measured, on a terminal only.
fn progress(arguments: &Arguments, what: &str) {
    if !arguments.json && std::io::stderr().is_terminal() {
        output::complain(&format!("measuring {what}"));
    }
}

/// Keeps the control ids of runs apart: a server that has seen an earlier one would take repeats for duplicates.
fn run_number() -> u32 {
    let seconds = output::now_us() / 100_000;
    (seconds.cast_unsigned() ^ (u64::from(std::process::id()) << 20)) as u32 % 36u32.pow(6)
}

/// `750`, `100KiB`, `1MiB`.
fn size(text: &str) -> Result<usize, String> {
    const MOST: usize = 256 << 20;
    let (number, unit) = match text.find(|letter: char| !letter.is_ascii_digit()) {
        Some(at) => (&text[..at], text[at..].trim()),
        None => (text, ""),
    };
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return Err("a size is bytes, or a number with KiB or MiB".to_owned()),
    };
    let number: usize = number.parse().map_err(|_| "a size begins with a number".to_owned())?;
    number.checked_mul(unit).filter(|size| *size <= MOST).ok_or_else(|| "at most 256MiB".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && (0.01..=10_000_000.0).contains(rate))
        .ok_or_else(|| "a rate is messages a second, from 0.01".to_owned())
}

/// For [`own`]: how long it takes until a server that was just started answers its first message with AA.
fn first_acknowledgment(to: SocketAddr, message: &[u8], start: Instant) -> std::io::Result<Duration> {
    const WAIT: Duration = Duration::from_secs(20);
    loop {
        match super::mllp::Client::connect(&to.to_string(), None, WAIT) {
            Ok(mut client) => match client.exchange(message) {
                Ok(answer) if answer.windows(7).any(|part| part == b"\rMSA|AA") => return Ok(start.elapsed()),
                Ok(answer) => {
                    let text = format!("answered {}", String::from_utf8_lossy(&answer).trim_end());
                    return Err(std::io::Error::other(text));
                }
                Err(error) => return Err(error),
            },
            Err(error) if start.elapsed() > WAIT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("750"), Ok(750));
        assert_eq!(size("100KiB"), Ok(102_400));
        assert_eq!(size("1MiB"), Ok(1_048_576));
        for wrong in ["", "KiB", "1kb", "-1", "1.5MiB", "99999999999999999999", "257MiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_positive() {
        assert_eq!(rate("400"), Ok(400.0));
        for wrong in ["0", "-1", "inf", "NaN", "x"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
