//! Every document of the corpus stamped in both looks, each result examined by tools that are none of ours.
//!
//! `cargo test -p pdf --test corpus -- --nocapture` prints the table by verdict.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use pdf::{How, Limits, Look, Pages, Stamped, stamp};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{FOUND, LINES, Picture, Sample, change, corpus, draw, have};

const TOOLS: [&str; 5] = ["qpdf", "pdfinfo", "pdftotext", "pdftoppm", "mutool"];
const OK: [&str; 2] = ["ok", "ok_with_warnings"];
const LEFT_ALONE: [&str; 3] = ["password_required", "zero_pages", "not_openable"];
/// Fine enough for 7 points.
const DPI: u32 = 100;
/// Enough to see that a page is as it was.
const DPI_OTHERS: u32 = 20;
/// Of the longest documents, for time.
const PAGES_DRAWN: usize = 40;

/// poppler shows nothing of a page with junk among its contents; stamped, the junk is gone and it shows the page.
const WITHOUT_STAMP_BLANK: [(&str, &str); 1] = [("pdftoppm", "plain_xref_table__issue_1286__c6b1d6c4.pdf")];
/// All of the page is of the same red.
const HIDDEN: [&str; 1] = ["cropbox__cropped_no_overlap__9ec5b72e.pdf"];

/// One line of the table.
#[derive(Default)]
struct Row {
    files: usize,
    incremental: usize,
    rewritten: usize,
    unstamped: usize,
    slowest: Duration,
}

fn stamped(sample: &Sample, look: Look, pages: Pages) -> (Result<Stamped, pdf::Unstamped>, Duration) {
    let start = Instant::now();
    let result = stamp(&sample.bytes, &LINES, look, pages, &Limits::default());
    (result, start.elapsed())
}

/// Problems of one result, by tools; none where it is right.
fn examine(sample: &Sample, drawn: &BTreeMap<&str, Before>, stamped: &Stamped, look: Look) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stamped.pdf");
    std::fs::write(&path, &stamped.bytes).unwrap();
    let mut problems = Vec::new();
    if stamped.how == How::Incremental && !stamped.bytes.starts_with(&sample.bytes) {
        problems.push("the original is no prefix".to_owned());
    }
    let ((before, _), (after, said)) = (support::qpdf_check(&sample.path), support::qpdf_check(&path));
    if after > before {
        problems.push(format!("qpdf --check went from {before} to {after}: {said}"));
    }
    for (tool, count) in
        [("poppler", support::poppler_pages as fn(&Path) -> _), ("mupdf", support::mupdf_pages)]
    {
        let (before, after) = (count(&sample.path), count(&path));
        // A repaired file may have pages where the damaged one had none.
        if before != after && (stamped.how == How::Incremental || before.unwrap_or(0) > after.unwrap_or(0)) {
            problems.push(format!("{tool} counts {after:?} pages, not {before:?}"));
        }
    }
    // Counted in letters: a page of a few points breaks every word.
    let text = support::text_of_first_page(&path);
    let dense: String = text.split_whitespace().collect();
    for piece in FOUND {
        let missing = if dense.len() < 100_000 && wide(sample) {
            !text.contains(piece)
        } else {
            !dense.contains(&piece.replace(' ', ""))
        };
        if missing {
            problems.push(format!("pdftotext does not find {piece:?}"));
        }
    }
    for (flag, entry) in [("-custom", "hl7server:patient_id:"), ("-meta", "<hl7server:patient_id>4711</")] {
        let output = support::run("pdfinfo", &[flag, path.to_str().unwrap()]);
        if memchr::memmem::find(&output.stdout, entry.as_bytes()).is_none() {
            problems.push(format!("pdfinfo {flag} shows no metadata"));
        }
    }
    for (tool, before) in drawn {
        problems.extend(compare(tool, sample, before, &path, look, stamped.how));
    }
    problems
}

/// Whether the first page has room for the longest word.
fn wide(sample: &Sample) -> bool {
    !sample.name.contains("cyclic-toc") && !sample.name.contains("base_ctm")
}

/// A page of a few points, to a tool that knows no user unit, drawn large enough for its letters.
fn larger(tool: &str, sample: &Sample, path: &Path) -> Vec<String> {
    let (before, after) = (draw(tool, &sample.path, DPI * 60, 1), draw(tool, path, DPI * 60, 1));
    let found = change(&before[&1], &after[&1]);
    let right = found.not_red.is_none() && found.bounds.is_some_and(|[left, top, ..]| left < 50 && top < 50);
    if right { Vec::new() } else { vec![format!("{tool} shows nothing in the upper left corner: {found:?}")] }
}

fn compare(tool: &str, sample: &Sample, before: &Before, path: &Path, look: Look, how: How) -> Vec<String> {
    let mut problems = Vec::new();
    let after = draw(tool, path, DPI, 1);
    let (Some(first), Some(after)) = (before.first.get(&1), after.get(&1)) else {
        if !before.first.is_empty() && after.is_empty() {
            problems.push(format!("{tool} draws the first page no more"));
        }
        return problems;
    };
    if (first.width, first.height) != (after.width, after.height) {
        return vec![format!("{tool} draws the first page in another size")];
    }
    if WITHOUT_STAMP_BLANK.contains(&(tool, &sample.name)) || HIDDEN.contains(&&sample.name[..]) {
        return problems;
    }
    let found = change(first, after);
    if look == Look::Invisible {
        if found.pixels > 0 {
            problems.push(format!("{tool} shows what should be invisible: {found:?}"));
        }
        return problems;
    }
    if found.pixels == 0 && first.width < 50 {
        return larger(tool, sample, path);
    }
    // 12 points from the edge or less, and the first letters are there.
    let [left, top, ..] = found.bounds.unwrap_or([usize::MAX; 4]);
    let near = (DPI as usize * 12 / 72) + 6;
    if left > near || top > near {
        problems.push(format!("{tool} shows nothing in the upper left corner: {found:?}"));
    }
    if let Some(wrong) = found.not_red {
        problems.push(format!("{tool} changed another pixel: {wrong:?}"));
    }
    if how == How::Incremental {
        let after = draw(tool, path, DPI_OTHERS, last_page(sample));
        if before.all.len() != after.len() {
            problems.push(format!("{tool} draws {} pages, not {}", after.len(), before.all.len()));
        }
        let other = |(number, page): &(&usize, &Picture)| **number > 1 && after.get(number) != Some(*page);
        problems.extend(
            before.all.iter().filter(other).map(|(number, _)| format!("{tool} changed page {number}")),
        );
    }
    problems
}

/// A document as it came, in the eyes of a tool.
struct Before {
    first: BTreeMap<usize, Picture>,
    all: BTreeMap<usize, Picture>,
}

impl Before {
    fn of(tool: &str, sample: &Sample) -> Before {
        let first = draw(tool, &sample.path, DPI, 1);
        Before { first, all: draw(tool, &sample.path, DPI_OTHERS, last_page(sample)) }
    }
}

/// A count that is too high makes poppler draw pages that are not there.
fn last_page(sample: &Sample) -> usize {
    usize::try_from(sample.pages.unwrap_or(1)).unwrap().min(PAGES_DRAWN)
}

/// Stamps one document in both looks; what is wrong with the results.
fn check(sample: &Sample, examined: bool, table: &Mutex<BTreeMap<String, Row>>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut before = BTreeMap::new();
    for look in [Look::Visible, Look::Invisible] {
        let (result, took) = stamped(sample, look, Pages::First);
        {
            let mut table = table.lock().unwrap();
            let row = table.entry(format!("{look:?} {}", sample.verdict)).or_default();
            row.files += 1;
            row.slowest = row.slowest.max(took);
            match result.as_ref().map(|stamped| stamped.how) {
                Ok(How::Incremental) => row.incremental += 1,
                Ok(How::Rewritten) => row.rewritten += 1,
                Err(_) => row.unstamped += 1,
            }
        }
        if took > Duration::from_secs(2) {
            problems.push(format!("took {took:?}"));
        }
        match &result {
            Ok(_) if LEFT_ALONE.contains(&&sample.verdict[..]) => {
                problems.push("stamped, and should be left alone".to_owned());
            }
            Ok(stamped) if examined => {
                if before.is_empty() {
                    before = ["pdftoppm", "mutool"].map(|tool| (tool, Before::of(tool, sample))).into();
                }
                problems.extend(examine(sample, &before, stamped, look));
            }
            Ok(_) => {}
            Err(unstamped) if look == Look::Visible => {
                println!("unstamped ({}) {}: {unstamped}", sample.verdict, sample.name);
            }
            Err(_) => {}
        }
    }
    problems.into_iter().map(|problem| format!("{}: {problem}", sample.name)).collect()
}

#[test]
fn stamps_in_both_looks_are_right_in_the_eyes_of_independent_tools() {
    // `CORPUS_ONLY=name` looks at some of them.
    let only = std::env::var("CORPUS_ONLY").unwrap_or_default();
    let samples: Vec<Sample> = corpus().into_iter().filter(|sample| sample.name.contains(&only)).collect();
    let examined = have(&TOOLS);
    let table = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    let problems = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = check(sample, examined, &table);
                    problems.lock().unwrap().extend(found);
                }
            });
        }
    });
    let (table, problems) = (table.into_inner().unwrap(), problems.into_inner().unwrap());
    println!("\n{:<40} files  incremental  rewritten  unstamped   slowest", "look and verdict");
    for (verdict, Row { files, incremental, rewritten, unstamped, slowest }) in &table {
        let slowest = slowest.as_secs_f64() * 1e3;
        println!(
            "{verdict:<40} {files:>5}  {incremental:>11}  {rewritten:>9}  {unstamped:>9}  {slowest:>7.1} ms"
        );
    }
    for (verdicts, least) in [(&OK[..], 99), (&["encrypted_no_password_needed"], 90)] {
        let rows = table
            .iter()
            .filter(|(key, _)| verdicts.iter().any(|verdict| key.ends_with(&format!(" {verdict}"))));
        let (files, unstamped) =
            rows.fold((0, 0), |sum, (_, row)| (sum.0 + row.files, sum.1 + row.unstamped));
        assert!((files - unstamped) * 100 >= files * least, "{unstamped} of {files} unstamped: {verdicts:?}");
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn every_page_is_stamped_where_all_are_asked_for() {
    if !have(&["pdftotext", "qpdf"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for sample in corpus().iter().filter(|sample| OK.contains(&&sample.verdict[..])) {
        let Some(pages) = sample.pages.filter(|&pages| pages <= 60) else { continue };
        let (result, took) = stamped(sample, Look::Visible, Pages::All);
        assert!(took < Duration::from_secs(2), "{}: {took:?}", sample.name);
        let path = folder.path().join("all.pdf");
        std::fs::write(&path, result.unwrap().bytes).unwrap();
        let output = support::run("pdftotext", &["-raw", path.to_str().unwrap(), "-"]);
        let text: String = String::from_utf8_lossy(&output.stdout).split_whitespace().collect();
        let found = text.matches("patient_id:4711").count();
        assert_eq!(found as u64, pages, "{}", sample.name);
        assert!(support::qpdf_check(&path).0 <= support::qpdf_check(&sample.path).0, "{}", sample.name);
    }
}

#[test]
fn a_signature_digests_as_before() {
    if !have(&["pdfsig"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let validations = |path: &Path| -> Vec<String> {
        let output = support::run("pdfsig", &["-nocert", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| line.contains("Signature Validation") || line.contains("Signed Ranges"))
            .map(str::to_owned)
            .collect()
    };
    let mut signed = 0;
    for sample in
        corpus().iter().filter(|sample| memchr::memmem::find(&sample.bytes, b"/ByteRange").is_some())
    {
        let before = validations(&sample.path);
        for look in [Look::Visible, Look::Invisible] {
            let Ok(stamped) = stamped(sample, look, Pages::All).0 else { continue };
            assert_eq!(stamped.how, How::Incremental, "{}", sample.name);
            let path = folder.path().join("signed.pdf");
            std::fs::write(&path, &stamped.bytes).unwrap();
            assert_eq!(validations(&path), before, "{}", sample.name);
        }
        signed += usize::from(before.iter().any(|line| line.contains("is Valid")));
    }
    println!("{signed} documents with a signature that is valid before and after");
}

#[test]
fn an_encrypted_document_stays_encrypted() {
    if !have(&["qpdf"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shown = |path: &Path| {
        let output = support::run("qpdf", &["--show-encryption", path.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| line.contains(" = ") || line.contains("method"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for sample in corpus().iter().filter(|sample| sample.verdict == "encrypted_no_password_needed") {
        let stamped = stamped(sample, Look::Visible, Pages::First).0.unwrap();
        let path = folder.path().join("encrypted.pdf");
        std::fs::write(&path, &stamped.bytes).unwrap();
        let before = shown(&sample.path);
        assert!(!before.is_empty() && before == shown(&path), "{}", sample.name);
        let added = stamped.bytes.strip_prefix(&sample.bytes[..]).unwrap_or(&stamped.bytes);
        let plain_xmp = memchr::memmem::find(&sample.bytes, b"/EncryptMetadata false").is_some();
        assert_eq!(memchr::memmem::find(added, b"4711").is_some(), plain_xmp, "{}", sample.name);
    }
}

#[test]
fn the_same_stamp_gives_the_same_bytes() {
    for sample in corpus() {
        let once = stamped(&sample, Look::Visible, Pages::First).0;
        assert!(once == stamped(&sample, Look::Visible, Pages::First).0, "{}", sample.name);
    }
}

#[test]
fn a_stamped_document_can_be_stamped_again() {
    for sample in corpus() {
        let Ok(once) = stamped(&sample, Look::Visible, Pages::First).0 else { continue };
        let twice =
            stamp(&once.bytes, &[("again", "yes")], Look::Invisible, Pages::All, &Limits::default()).unwrap();
        assert_eq!(twice.how, How::Incremental, "{}", sample.name);
        assert!(twice.bytes.starts_with(&once.bytes), "{}", sample.name);
    }
}
