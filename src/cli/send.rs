//! `send`: an MLLP client, to try a channel or to send again what a sender has lost.

use super::mllp::Client;
use super::{Fail, Outcome, hl7_file, output, tls};
use hl7::header::Header;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Send messages over MLLP and print what is answered
///
/// A file holds one message, or several in MLLP frames; it is sent byte for byte. Ends with 1 unless every message was
/// answered AA or CA. Messages sent again unchanged are duplicates to the server: acknowledged, and not processed again.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Files with messages; - for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where to send them
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Send each message so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// At most so many messages a second
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Seconds to wait for each connection and answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(flatten)]
    tls: tls::TlsArguments,
    /// Print one JSON object a message
    #[arg(long)]
    json: bool,
}

/// A message to be sent, and which one it is.
struct Message {
    name: String,
    bytes: Vec<u8>,
}

/// What all connections share.
struct Job<'a> {
    arguments: &'a Arguments,
    tls: Option<tls::Connector>,
    messages: Vec<Message>,
    next: AtomicU64,
    start: Instant,
    tally: Mutex<Tally>,
    /// `None` where lines of what is answered go to the same terminal.
    progress: Option<output::Progress>,
}

#[derive(Default)]
struct Tally {
    sent: u64,
    accepted: u64,
    failed: u64,
    output_closed: bool,
}

/// Carries out `send`.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let mut messages = Vec::new();
    for file in &arguments.files {
        let split = hl7_file::frames(&hl7_file::read(file)?);
        let several = split.len() > 1;
        for (n, bytes) in split.into_iter().enumerate() {
            let name = file.display().to_string();
            messages.push(Message { name: if several { format!("{name}[{}]", n + 1) } else { name }, bytes });
        }
    }
    if messages.is_empty() {
        return Err(Fail::Failed("the files hold no message".to_owned()));
    }
    let lines = (arguments.repeat == 1 || arguments.json) && io::stdout().is_terminal();
    let total = messages.len() as u64 * arguments.repeat;
    let progress = (!lines).then(|| output::Progress::new(total, "messages"));
    let job = Job {
        arguments,
        tls: tls::Connector::of(&arguments.tls, &arguments.to)?,
        messages,
        next: AtomicU64::new(0),
        start: Instant::now(),
        tally: Mutex::default(),
        progress,
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.connections {
            scope.spawn(|| job.work());
        }
    });
    let elapsed = job.start.elapsed();
    job.progress.iter().for_each(output::Progress::end);
    let tally = job.tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if io::stderr().is_terminal() && tally.sent > 1 {
        let rate = tally.sent as f64 / elapsed.as_secs_f64().max(1e-9);
        output::complain(&format!(
            "{} sent, {} accepted, {} not, in {:.3} s ({rate:.0}/s)",
            tally.sent,
            tally.accepted,
            tally.failed,
            elapsed.as_secs_f64()
        ));
    }
    match tally {
        Tally { output_closed: true, .. } => Err(Fail::OutputClosed),
        Tally { failed: 0, .. } => Ok(()),
        _ => Err(Fail::Said),
    }
}

impl Job<'_> {
    /// One connection: takes the next message until none is left. A lost connection is made again for the next one.
    fn work(&self) {
        let total = self.messages.len() as u64 * self.arguments.repeat;
        let timeout = Duration::from_secs(self.arguments.timeout);
        let mut client = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= total || self.is_output_closed() {
                return;
            }
            self.wait_for_turn(number);
            let at =
                usize::try_from(number % self.messages.len() as u64).expect("below the number of messages");
            let message = &self.messages[at];
            let start = Instant::now();
            let answer = self.exchange(&mut client, &message.bytes, timeout);
            if answer.is_err() {
                client = None;
            }
            self.report(message, answer, start.elapsed());
        }
    }

    fn exchange(
        &self,
        client: &mut Option<Client>,
        message: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, String> {
        let to = &self.arguments.to;
        let connected = match client {
            Some(client) => client,
            None => {
                let new = Client::connect(to, self.tls.as_ref(), timeout)
                    .map_err(|error| format!("could not connect to \"{to}\": {}", output::plain(&error)))?;
                client.insert(new)
            }
        };
        connected
            .exchange(message)
            .map_err(|error| format!("no answer from \"{to}\": {}", output::plain(&error)))
    }

    fn wait_for_turn(&self, number: u64) {
        let Some(rate) = self.arguments.rate else { return };
        let due = self.start + Duration::from_secs_f64(number as f64 / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }

    fn is_output_closed(&self) -> bool {
        self.tally.lock().map_or(true, |tally| tally.output_closed)
    }

    fn report(&self, message: &Message, answer: Result<Vec<u8>, String>, took: Duration) {
        let sent_id =
            Header::parse(&message.bytes).map(|header| header.control_id().to_vec()).unwrap_or_default();
        let report = Report::of(&message.name, &sent_id, answer, took);
        let Ok(mut tally) = self.tally.lock() else { return };
        tally.sent += 1;
        self.progress.iter().for_each(|progress| progress.reached(tally.sent));
        if report.accepted {
            tally.accepted += 1;
        } else {
            tally.failed += 1;
        }
        // Where very many go right, the lines would cost more than the sending.
        let quiet = report.accepted && self.arguments.repeat > 1 && !self.arguments.json;
        if quiet {
            return;
        }
        let written = match &report.code {
            _ if self.arguments.json => writeln!(output::stdout(), "{}", report.json()),
            Some(code) => writeln!(output::stdout(), "{}", report.line(code)),
            None => {
                output::complain(&format!("{}: {}", report.name, report.text));
                Ok(())
            }
        };
        tally.output_closed |= written.is_err();
    }
}

/// One line of what is printed.
struct Report {
    name: String,
    control_id: String,
    /// MSA-1; `None` where no acknowledgment came.
    code: Option<String>,
    /// What the answer says, or why there is none.
    text: String,
    accepted: bool,
    took: Duration,
}

impl Report {
    fn of(name: &str, sent_id: &[u8], answer: Result<Vec<u8>, String>, took: Duration) -> Report {
        let (code, text, accepted) = match answer {
            Err(reason) => (None, reason, false),
            Ok(body) => match hl7::ack::read(&body) {
                None => (None, "the answer is no acknowledgment".to_owned(), false),
                Some(ack) if ack.control_id != sent_id => {
                    let other = String::from_utf8_lossy(&ack.control_id).into_owned();
                    (Some(ack.code), format!("the answer is for another message, \"{other}\""), false)
                }
                Some(ack) => {
                    let accepted = matches!(ack.code.as_str(), "AA" | "CA");
                    (Some(ack.code), ack.text.unwrap_or_default(), accepted)
                }
            },
        };
        let control_id = String::from_utf8_lossy(sent_id).into_owned();
        Report { name: name.to_owned(), control_id, code, text, accepted, took }
    }

    fn line(&self, code: &str) -> String {
        let line = format!(
            "{code}  {}  {}  {:.1} ms  {}",
            self.name,
            self.control_id,
            self.took.as_secs_f64() * 1e3,
            self.text
        );
        crate::logging::escape_controls(line.trim_end()).into_owned()
    }

    fn json(&self) -> String {
        serde_json::json!({
            "file": self.name,
            "control_id": self.control_id,
            "code": self.code,
            "text": self.text,
            "accepted": self.accepted,
            "seconds": self.took.as_secs_f64(),
        })
        .to_string()
    }
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate >= 0.001)
        .ok_or_else(|| "a rate is messages a second, from 0.001".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answer: &[u8]) -> Report {
        Report::of("a.hl7", b"ID1", Ok(answer.to_vec()), Duration::from_millis(2))
    }

    #[test]
    fn only_a_positive_answer_to_this_message_is_accepted() {
        assert!(report(b"MSH|^~\\&|A\rMSA|AA|ID1\r").accepted);
        assert!(report(b"MSH|^~\\&|A\rMSA|CA|ID1\r").accepted);
        assert!(!report(b"MSH|^~\\&|A\rMSA|AA|ID2\r").accepted);
        assert!(!report(b"MSH|^~\\&|A\rMSA|AR|ID1|no\r").accepted);
        assert!(!report(b"hello").accepted);
    }

    #[test]
    fn a_refusal_is_printed_with_its_text() {
        assert_eq!(
            report(b"MSH|^~\\&|A\rMSA|AR|ID1|no such type\r").line("AR"),
            "AR  a.hl7  ID1  2.0 ms  no such type"
        );
    }
}
