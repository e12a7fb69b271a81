//! One file stamped, for measuring: `stamp IN OUT visible|invisible first|all [TIMES]` prints how it came to be, the
//! fastest of TIMES runs in milliseconds, and by how much that raised the peak of the process's memory in KiB. Another,
//! small document is stamped before, so that what a program needs once is not counted as the file's.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use pdf::{Limits, Look, Pages, layout, stamp};
use std::time::{Duration, Instant};

const LINES: [(&str, &str); 4] = [
    ("patient_id", "4711"),
    ("patient_name", "Müller Łukasz Жук 山川"),
    ("order", "ORD-1"),
    ("received", "2024-05-03"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, look, pages, times @ ..] = &arguments[..] else {
        eprintln!("usage: stamp IN OUT visible|invisible first|all [TIMES]");
        std::process::exit(2);
    };
    let look = if look == "visible" { Look::Visible } else { Look::Invisible };
    let pages = if pages == "all" { Pages::All } else { Pages::First };
    let small = layout("A line.", "A text", &LINES);
    stamp(&small, &LINES, look, pages, &Limits::default()).unwrap();
    let before = peak_kib();
    let bytes = std::fs::read(input).unwrap();
    let mut fastest = Duration::MAX;
    let mut result = None;
    for _ in 0..times.first().map_or(1, |times| times.parse().unwrap()) {
        drop(result.take());
        let start = Instant::now();
        result = Some(stamp(&bytes, &LINES, look, pages, &Limits::default()));
        fastest = fastest.min(start.elapsed());
    }
    let peak = peak_kib() - before;
    let how = match &result {
        Some(Ok(stamped)) => {
            std::fs::write(output, &stamped.bytes).unwrap();
            format!("{:?} {}", stamped.how, stamped.notes.join("; "))
        }
        Some(Err(unstamped)) => format!("Unstamped {unstamped}"),
        None => String::new(),
    };
    println!("{:.3} ms\t{peak} kB\t{}\t{how}", fastest.as_secs_f64() * 1e3, bytes.len());
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}
