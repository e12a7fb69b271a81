//! The same stamp by this crate, pikepdf, PyMuPDF and qpdf, in one run: see `benches/compare`, which this starts.

use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // Cargo runs benches as tests too, where there is nothing to compare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare");
    match Command::new(&script).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!("{}: {status}", script.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("could not run {}: {error}", script.display());
            ExitCode::FAILURE
        }
    }
}
