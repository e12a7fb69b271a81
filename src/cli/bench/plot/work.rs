//! The curves of a plot, each measured.

use super::super::channels::{Purpose, Wanted};
use super::super::load::Shape;
use super::super::own::Own;
use super::super::process::private_bytes;
use super::super::set::closed_port;
use super::super::template::{Kind, Template};
use super::super::{Fail, run_number};
use super::Curve;
use pdf::{Limits, Look, Pages};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: f64 = 1_048_576.0;
/// A load that takes longer is an error.
const TIME_MAX: Duration = Duration::from_secs(120);
const LINES: [(&str, &str); 2] = [("patient_id", "48213377"), ("patient_name", "Vanterpool Odile")];

/// Where servers get their folders.
pub(super) struct Work<'a> {
    pub(super) folder: Option<&'a Path>,
    pub(super) keep: bool,
}

impl Work<'_> {
    fn start(&self, wanted: &Wanted) -> Result<Own, Fail> {
        Own::start(self.folder, self.keep, wanted)
    }

    /// Start to an AA and memory while messages wait for a peer that is down.
    pub(super) fn waiting(&self) -> Result<Vec<Curve>, Fail> {
        const STEP: u64 = 40_000;
        let (_taken, peer) = closed_port()?;
        let wanted =
            Wanted { peer: Some(peer), ..Wanted::of(&[Purpose::Second, Purpose::Forward], 16, 1 << 20) };
        let mut own = self.start(&wanted)?;
        let template = Template::of(Kind::Adt, 750, run_number());
        let (mut start, mut memory) = (Vec::new(), Vec::new());
        for n in 0..=4 {
            if n > 0 {
                let shape = Shape::closed(16, 16, STEP, TIME_MAX);
                let first = own.numbers(STEP);
                super::super::load(own.to(Purpose::Forward), &template, &shape, first)?;
            }
            let count = (n * STEP) as f64;
            let took = own.restart_to(Purpose::Forward)?;
            start.push((count, took.as_secs_f64() * 1e3));
            let most = own.workers().into_iter().filter_map(private_bytes).max().unwrap_or(0);
            memory.push((count, most as f64 / MIB));
        }
        let curve = |name, title, y, points| Curve { name, title, x: "messages waiting", y, points };
        Ok(vec![
            curve("waiting-start", "start to an AA with messages waiting", "ms", start),
            curve("waiting-memory", "memory of a worker with messages waiting", "MiB, private", memory),
        ])
    }

    /// Processor time of archiving into a folder that fills.
    pub(super) fn files(&self) -> Result<Vec<Curve>, Fail> {
        const STEP: u64 = 20_000;
        let mut own = self.start(&Wanted::of(&[Purpose::Archive], 16, 1 << 20))?;
        let template = Template::of(Kind::Adt, 750, run_number());
        let mut points = vec![(0.0, 0.0)];
        let mut sum = 0.0;
        for n in 1..=6 {
            let shape = Shape::closed(16, 16, STEP, TIME_MAX);
            let figures = own.measure("ADT", Purpose::Archive, &template, &shape)?;
            sum += figures.server_cpu_us.unwrap_or(0.0) * STEP as f64 / 1e6;
            points.push(((n * STEP) as f64, sum));
        }
        Ok(vec![Curve {
            name: "files",
            title: "archiving into one folder",
            x: "files in the folder",
            y: "s of processor time, from the first file",
            points,
        }])
    }

    /// Start and memory of a server with channels that have nothing to do.
    pub(super) fn channels(&self) -> Result<Vec<Curve>, Fail> {
        let (mut start, mut memory) = (Vec::new(), Vec::new());
        for count in [1, 8, 16, 24, 32] {
            let purposes: Vec<Purpose> = (0..count).map(Purpose::Numbered).collect();
            let begun = Instant::now();
            let own = self.start(&Wanted::of(&purposes, 16, 1 << 20))?;
            start.push((f64::from(count), begun.elapsed().as_secs_f64() * 1e3));
            let bytes: u64 = own.processes().into_iter().filter_map(private_bytes).sum();
            memory.push((f64::from(count), bytes as f64 / MIB));
        }
        let curve = |name, title, y, points| Curve { name, title, x: "channels", y, points };
        Ok(vec![
            curve("channels-start", "start of a server", "ms until all are ready", start),
            curve("channels-memory", "memory of a server that is idle", "MiB, private", memory),
        ])
    }

    /// The stamp of a document, on its first page and on all.
    pub(super) fn pages(&self) -> Result<Vec<Curve>, Fail> {
        const TIMES: u32 = 5;
        let mut curves = Vec::new();
        for (name, title, which) in [
            ("pages-first", "stamp on the first page", Pages::First),
            ("pages-all", "stamp on all pages", Pages::All),
        ] {
            let mut points = Vec::new();
            for pages in [1u32, 100, 200, 300, 400] {
                let document = document(pages);
                let mut fastest = f64::INFINITY;
                for _ in 0..TIMES {
                    let start = Instant::now();
                    pdf::stamp(&document, &LINES, Look::Visible, which, &Limits::default())
                        .map_err(|error| Fail::Failed(format!("could not stamp {pages} pages: {error}")))?;
                    fastest = fastest.min(start.elapsed().as_secs_f64() * 1e3);
                }
                points.push((f64::from(pages), fastest));
            }
            curves.push(Curve { name, title, x: "pages", y: "ms", points });
        }
        Ok(curves)
    }

    /// A message of many segments, mapped and archived.
    pub(super) fn segments(&self) -> Result<Vec<Curve>, Fail> {
        const MESSAGES: u64 = 400;
        let mut own = self.start(&Wanted::of(&[Purpose::Mapped], 4, 1 << 20))?;
        let mut points = Vec::new();
        for segments in [8, 2_000, 4_000, 6_000, 8_000] {
            let template = Template::segments(segments, run_number());
            let shape = Shape::closed(4, 1, MESSAGES, TIME_MAX);
            let figures = own.measure("ADT", Purpose::Mapped, &template, &shape)?;
            points.push((segments as f64, figures.server_cpu_us.unwrap_or(0.0) / 1e3));
        }
        Ok(vec![Curve {
            name: "segments",
            title: "a message mapped and archived",
            x: "segments",
            y: "ms of processor time",
            points,
        }])
    }
}

/// Pages with a line of text each.
fn document(pages: u32) -> Vec<u8> {
    let kids: String = (0..pages).map(|page| format!("{} 0 R ", 4 + page * 2)).collect();
    let mut objects = vec![
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        format!("<</Type/Pages/Kids[{kids}]/Count {pages}/MediaBox[0 0 595 842]>>"),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>".to_owned(),
    ];
    for page in 0..pages {
        let contents = 5 + page * 2;
        let text = format!("BT /F1 10 Tf 50 800 Td (Page {page}) Tj ET");
        objects.push(format!(
            "<</Type/Page/Parent 2 0 R/Contents {contents} 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
        ));
        objects.push(format!("<</Length {}>>stream\n{text}\nendstream", text.len()));
    }
    let mut file = "%PDF-1.4\n".to_owned();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in (1..).zip(&objects) {
        let _ = writeln!(table, "{:010} 00000 n ", file.len());
        let _ = write!(file, "{number} 0 obj\n{object}\nendobj\n");
    }
    let start = file.len();
    let _ = write!(table, "trailer\n<</Root 1 0 R/Size {}>>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1);
    (file + &table).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_many_pages_is_sound() {
        for pages in [1, 7] {
            let stamped = pdf::stamp(&document(pages), &LINES, Look::Visible, Pages::All, &Limits::default());
            assert!(stamped.is_ok(), "{pages} pages: {:?}", stamped.err());
        }
    }
}
