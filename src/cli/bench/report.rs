//! What `bench` prints: a table, and one JSON object for machines.

use super::super::output::{Align, Table, grouped};
use super::load::{Outcome, Shape};
use super::template::Template;
use serde::Serialize;
use std::io::{self, Write};

/// A whole run.
#[derive(Serialize)]
pub(super) struct Report {
    version: &'static str,
    pub(super) file_system: Option<String>,
    pub(super) start_to_first_ack_ms: Option<f64>,
    pub(super) idle_worker_private_kib: Option<u64>,
    rows: Vec<Figures>,
}

/// One load and what came of it.
#[derive(Serialize)]
pub(super) struct Figures {
    work: &'static str,
    connections: usize,
    window: usize,
    rate: Option<f64>,
    message_bytes: usize,
    seconds: f64,
    sent: u64,
    acknowledged: u64,
    refused: u64,
    wrong: u64,
    acknowledged_per_s: f64,
    mb_per_s: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    /// Acknowledged messages by the time from the first one sent to the last one delivered.
    pub(super) archived_per_s: Option<f64>,
    /// Messages not yet delivered when the last acknowledgment came.
    pub(super) backlog_at_end: Option<u64>,
    /// Processor time of master and workers for one message, from its first byte to its last step.
    pub(super) server_cpu_us: Option<f64>,
    /// Files that should be there and are not, or the reverse.
    pub(super) files_missing: u64,
    #[serde(skip)]
    example: Option<String>,
}

impl Figures {
    pub(super) fn of(work: &'static str, template: &Template, shape: &Shape, outcome: &Outcome) -> Figures {
        let seconds = outcome.elapsed.as_secs_f64();
        let per_s = if seconds > 0.0 { outcome.acknowledged as f64 / seconds } else { 0.0 };
        Figures {
            work,
            connections: shape.connections,
            window: shape.window,
            rate: shape.rate,
            message_bytes: template.message_bytes(),
            seconds,
            sent: outcome.sent,
            acknowledged: outcome.acknowledged,
            refused: outcome.refused,
            wrong: outcome.wrong,
            acknowledged_per_s: per_s,
            mb_per_s: per_s * template.message_bytes() as f64 / 1e6,
            p50_us: outcome.latencies.quantile_us(0.5),
            p90_us: outcome.latencies.quantile_us(0.9),
            p99_us: outcome.latencies.quantile_us(0.99),
            p999_us: outcome.latencies.quantile_us(0.999),
            archived_per_s: None,
            backlog_at_end: None,
            server_cpu_us: None,
            files_missing: 0,
            example: outcome.example.clone(),
        }
    }

    pub(super) fn acknowledged_per_s(&self) -> f64 {
        self.acknowledged_per_s
    }

    /// Median and 99th percentile of the time to an answer.
    pub(super) fn p50_p99_us(&self) -> (f64, f64) {
        (self.p50_us as f64, self.p99_us as f64)
    }

    /// An answer that was missing or wrong, or a file.
    pub(super) fn fault(&self) -> Option<String> {
        let unanswered = self.sent - self.acknowledged - self.refused - self.wrong;
        let example = self.example.as_deref().map(|text| format!("; the first: {text}")).unwrap_or_default();
        let work = self.work;
        match (self.refused, self.wrong, unanswered, self.files_missing) {
            (0, 0, 0, 0) => None,
            (0, 0, 0, missing) => Some(format!("{work}: {missing} files too few or too many came out")),
            (refused, wrong, unanswered, _) => Some(format!(
                "{work}: {refused} messages refused, {wrong} answered wrongly, {unanswered} not answered{example}"
            )),
        }
    }
}

impl Report {
    pub(super) fn new(rows: Vec<Figures>) -> Report {
        let version = env!("CARGO_PKG_VERSION");
        Report {
            version,
            file_system: None,
            start_to_first_ack_ms: None,
            idle_worker_private_kib: None,
            rows,
        }
    }

    /// What makes the figures worthless.
    pub(super) fn fault(&self) -> Option<String> {
        self.rows.iter().find_map(Figures::fault)
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let heads =
            ["WORK", "CONN", "WINDOW", "ACK/S", "MB/S", "P50", "P90", "P99", "P99.9", "ARCHIVED/S", "CPU"];
        let mut table =
            Table::new(&heads.map(|head| (head, if head == "WORK" { Align::Left } else { Align::Right })));
        for row in &self.rows {
            table.row(vec![
                row.work.to_owned(),
                row.connections.to_string(),
                row.rate.map_or_else(|| row.window.to_string(), |rate| format!("{rate}/s")),
                whole(row.acknowledged_per_s),
                format!("{:.1}", row.mb_per_s),
                latency(row.p50_us),
                latency(row.p90_us),
                latency(row.p99_us),
                latency(row.p999_us),
                row.archived_per_s.map_or_else(|| "-".to_owned(), whole),
                row.server_cpu_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.0} µs")),
            ]);
        }
        table.print(out)?;
        writeln!(out)?;
        if let Some(ms) = self.start_to_first_ack_ms {
            writeln!(out, "start to first acknowledgment  {ms:.1} ms")?;
        }
        if let Some(kib) = self.idle_worker_private_kib {
            writeln!(out, "memory of an idle worker       {} KiB private", grouped(kib))?;
        }
        if let Some(file_system) = &self.file_system {
            writeln!(out, "file system                    {file_system}")?;
        }
        Ok(())
    }
}

fn whole(number: f64) -> String {
    grouped(number.round().max(0.0) as u64)
}

fn latency(us: u64) -> String {
    match us {
        0..10_000 => format!("{} µs", grouped(us)),
        10_000..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Kind;
    use super::*;

    fn figures(outcome: &Outcome) -> Figures {
        let shape = Shape::closed(1, 1, 1, std::time::Duration::from_secs(1));
        Figures::of("ADT", &Template::of(Kind::Adt, 750, 1), &shape, outcome)
    }

    #[test]
    fn a_message_without_a_right_answer_is_a_fault() {
        let right = Outcome { sent: 2, acknowledged: 2, ..Outcome::default() };
        assert_eq!(Report::new(vec![figures(&right)]).fault(), None);
        for wrong in [
            Outcome { sent: 2, acknowledged: 1, ..Outcome::default() },
            Outcome { sent: 2, acknowledged: 1, refused: 1, ..Outcome::default() },
            Outcome { sent: 2, acknowledged: 1, wrong: 1, ..Outcome::default() },
        ] {
            assert!(Report::new(vec![figures(&wrong)]).fault().is_some());
        }
    }

    #[test]
    fn a_missing_file_is_a_fault() {
        let mut row = figures(&Outcome { sent: 2, acknowledged: 2, ..Outcome::default() });
        row.files_missing = 1;
        assert!(Report::new(vec![row]).fault().unwrap().contains("1 files"));
    }
}
