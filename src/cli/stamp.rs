//! `stamp`: the stamp of attachments alone, on a file.

use super::{Fail, Outcome, output};
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Stamp metadata into a PDF file, as the attachments of messages are stamped
///
/// The lines are written as `name: value` at the upper left of the first page, in the order given, and into the
/// document's properties. A file that cannot be stamped ends with 1 and its reason, and nothing is written.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The PDF file to read
    #[arg(value_name = "IN.pdf")]
    input: PathBuf,
    /// The PDF file to write; one that is there is replaced
    #[arg(value_name = "OUT.pdf")]
    output: PathBuf,
    /// A line of the stamp; may be given several times
    #[arg(long = "set", value_name = "NAME=VALUE", required = true, value_parser = line)]
    lines: Vec<(String, String)>,
    /// Print the lines in red, 7 points high [default: invisible, and found by search]
    #[arg(long)]
    visible: bool,
    /// Stamp every page [default: the first]
    #[arg(long)]
    all_pages: bool,
}

/// Carries out `stamp`.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let bytes = std::fs::read(&arguments.input)
        .map_err(|error| Fail::io(format_args!("read {}", quoted(&arguments.input)), &error))?;
    let look = if arguments.visible { pdf::Look::Visible } else { pdf::Look::Invisible };
    let pages = if arguments.all_pages { pdf::Pages::All } else { pdf::Pages::First };
    let stamped =
        pdf::stamp(&bytes, &arguments.lines, look, pages, &pdf::Limits::default()).map_err(|unstamped| {
            Fail::Failed(format!("cannot stamp {}: {unstamped}", quoted(&arguments.input)))
        })?;
    replace(&arguments.output, &stamped.bytes)
        .map_err(|error| Fail::io(format_args!("write {}", quoted(&arguments.output)), &error))?;
    for note in &stamped.notes {
        output::complain(&format!("{}: {note}", quoted(&arguments.input)));
    }
    let how = match stamped.how {
        pdf::How::Incremental => {
            format!("{} added", output::size((stamped.bytes.len() - bytes.len()) as u64))
        }
        pdf::How::Rewritten => "rewritten whole".to_owned(),
    };
    writeln!(output::stdout(), "{}: stamped, {how}", arguments.output.display())?;
    Ok(())
}

/// Beside it first: a full disk must not cost the file that is there, which may be the one that was read.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or(OsStr::new("stamped.pdf"));
    let mut beside = name.to_os_string();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn line(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("it must be NAME=VALUE".to_owned()),
    }
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_all_that_follows_the_first_equals_sign() {
        assert_eq!(line("name=a=b").unwrap(), ("name".to_owned(), "a=b".to_owned()));
        assert_eq!(line("name=").unwrap(), ("name".to_owned(), String::new()));
        assert!(line("name").is_err() && line("=x").is_err());
    }
}
