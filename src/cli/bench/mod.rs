//! `bench`: how fast messages are acknowledged and delivered. See [`load`] for the generator, [`ceilings`] for what the
//! machine allows and [`set`] for the figures that are compared from version to version.

mod ceilings;
mod channels;
mod histogram;
mod load;
mod own;
mod peer;
mod plot;
mod process;
mod report;
mod set;
mod template;

use super::{Fail, Outcome, output};
use channels::{Purpose, Wanted};
use clap::builder::PossibleValuesParser;
use load::Shape;
use report::{Figures, Report};
use std::io::Write;
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
    /// End after so long [default: 10; with --ceilings 4 for each figure, 60 for the sustained one]
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
    /// Measure what things cost as there is more of them, and draw it: a curve a file, in DIR
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "ceilings", "kind", "size", "connections", "window", "rate"])]
    plot: Option<PathBuf>,
    /// With --ceilings: this figure alone; may be given several times
    #[arg(long, value_name = "NAME", requires = "ceilings", value_delimiter = ',',
          value_parser = PossibleValuesParser::new(set::names()))]
    only: Vec<String>,
    /// Put the server's folder in DIR: what is measured is its file system
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Leave the server's folder behind
    #[arg(long)]
    keep: bool,
    /// Print the JSON line only
    #[arg(long)]
    json: bool,
    /// Be the echo whose memory --ceilings compares with
    #[arg(long, hide = true)]
    serve_echo: bool,
}

/// Carries out `bench`.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    if arguments.serve_echo {
        return ceilings::serve_echo(&mut output::stdout())
            .map_err(|error| Fail::io("serve an echo", &error));
    }
    if let Some(folder) = &arguments.plot {
        return plot::run(arguments, folder);
    }
    if arguments.ceilings {
        return set::run(arguments);
    }
    let report = match &arguments.to {
        Some(to) => foreign_server(arguments, to)?,
        None => own_server(arguments)?,
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
        let messages = self.messages.unwrap_or(u64::MAX);
        let time = Duration::from_secs(seconds.into());
        Shape {
            rate: self.rate,
            ..Shape::closed(self.connections.into(), self.window.into(), messages, time)
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
    let wanted =
        Wanted::of(&[Purpose::Archive, Purpose::Documents], shape.connections, template.message_bytes());
    let mut own = own::Own::start(arguments.folder.as_deref(), arguments.keep, &wanted)?;
    // The worker that has never had a message is the idle one: the smaller of the two.
    let idle = own.workers().into_iter().filter_map(process::private_bytes).min();
    let purpose = match arguments.kind {
        Kind::Adt => Purpose::Archive,
        Kind::Oru => Purpose::Documents,
    };
    let figures = own.measure(name(arguments.kind), purpose, &template, &shape)?;
    let mut report = Report::new(vec![figures]);
    report.start_to_first_ack_ms = Some(own.start_to_first_ack().as_secs_f64() * 1e3);
    report.idle_worker_private_kib = idle.map(|bytes| bytes / 1024);
    report.file_system = Some(own::file_system(own.folder()));
    Ok(report)
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
