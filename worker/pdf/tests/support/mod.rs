//! The corpus, the tools that look at results from outside, and pictures of pages.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Metadata with letters of every kind: WinAnsi, the embedded font's, and ones no shipped font has.
pub const LINES: [(&str, &str); 5] = [
    ("patient_id", "4711"),
    ("patient_name", "Müller^Łukasz Жуков"),
    ("ward", "北京 東京"),
    (
        "comment",
        "a value (with brackets) that is long enough to be broken on most pages, since it goes on and on, on and on",
    ),
    ("received", "2024-05-03T10:00:00"),
];
/// What a search must find of them on a page wide enough, each in one piece.
pub const FOUND: [&str; 5] = [
    "patient_id: 4711",
    "Müller^Łukasz Жуков",
    "北京 東京",
    "(with brackets)",
    "received: 2024-05-03T10:00:00",
];

/// A document of the corpus, with the judgement of independent tools on it.
pub struct Sample {
    pub name: String,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub verdict: String,
    pub pages: Option<u64>,
    pub signatures: u64,
}

/// The corpus; empty, and said so, where it is not there.
pub fn corpus() -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/pdf");
    let Ok(oracle) = std::fs::read(folder.join("oracle.json")) else {
        println!("SKIPPED: no corpus at {}", folder.display());
        return Vec::new();
    };
    let oracle: serde_json::Value = serde_json::from_slice(&oracle).unwrap();
    let files = oracle["files"].as_object().unwrap();
    files
        .iter()
        .map(|(name, entry)| {
            let path = folder.join(name);
            Sample {
                name: name.clone(),
                bytes: std::fs::read(&path).unwrap(),
                path,
                verdict: entry["verdict"].as_str().unwrap().to_owned(),
                pages: entry["pages_consensus"]["pages"].as_u64(),
                signatures: entry["pikepdf"]["signatures"].as_u64().unwrap_or(0),
            }
        })
        .collect()
}

/// Whether the tools are there; says loudly which are not.
pub fn have(tools: &[&str]) -> bool {
    let missing: Vec<&str> =
        tools.iter().copied().filter(|tool| Command::new(tool).arg("-v").output().is_err()).collect();
    if !missing.is_empty() {
        println!("SKIPPED: missing {} (apt-get install qpdf poppler-utils mupdf-tools)", missing.join(", "));
    }
    missing.is_empty()
}

/// Runs a tool to its end, a minute at most.
pub fn run(tool: &str, arguments: &[&str]) -> Output {
    Command::new("timeout").arg("60").arg(tool).args(arguments).output().unwrap()
}

/// 0 sound, 2 errors, 3 warnings: worse the larger, with 2 the worst.
pub fn qpdf_check(path: &Path) -> (u8, String) {
    let output = run("qpdf", &["--check", path.to_str().unwrap()]);
    let grade = match output.status.code() {
        Some(0) => 0,
        Some(3) => 1,
        _ => 2,
    };
    (grade, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Pages as poppler counts them.
pub fn poppler_pages(path: &Path) -> Option<usize> {
    count("pdfinfo", &[path.to_str().unwrap()])
}

/// Pages as MuPDF counts them.
pub fn mupdf_pages(path: &Path) -> Option<usize> {
    count("mutool", &["info", path.to_str().unwrap()])
}

fn count(tool: &str, arguments: &[&str]) -> Option<usize> {
    let output = run(tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Pages:")).and_then(|count| count.trim().parse().ok())
}

/// The text of the first page in the order of its content, white space made even.
pub fn text_of_first_page(path: &Path) -> String {
    let output = run("pdftotext", &["-raw", "-l", "1", path.to_str().unwrap(), "-"]);
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A picture of a page.
#[derive(PartialEq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// A PPM, as all tools write it.
    pub fn read(bytes: &[u8]) -> Picture {
        let mut fields = Vec::new();
        let mut at = 0;
        while fields.len() < 4 {
            while bytes[at].is_ascii_whitespace() {
                at += 1;
            }
            if bytes[at] == b'#' {
                at += bytes[at..].iter().position(|&byte| byte == b'\n').unwrap();
                continue;
            }
            let end = at + bytes[at..].iter().position(u8::is_ascii_whitespace).unwrap();
            fields.push(std::str::from_utf8(&bytes[at..end]).unwrap());
            at = end;
        }
        assert_eq!((fields[0], fields[3]), ("P6", "255"));
        let pixels = bytes[at + 1..].chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        Picture { width: fields[1].parse().unwrap(), height: fields[2].parse().unwrap(), pixels }
    }
}

/// Pages drawn by `tool` (`pdftoppm` or `mutool`) at `dpi`, by number; a page that cannot be drawn is not among them.
pub fn draw(tool: &str, path: &Path, dpi: u32, last: usize) -> BTreeMap<usize, Picture> {
    let folder = tempfile::tempdir().unwrap();
    let (path, dpi) = (path.to_str().unwrap(), dpi.to_string());
    let last = last.to_string();
    match tool {
        "pdftoppm" => {
            let prefix = folder.path().join("p");
            run(tool, &["-cropbox", "-r", &dpi, "-l", &last, path, prefix.to_str().unwrap()]);
        }
        _ => {
            let pattern = folder.path().join("p-%d.ppm");
            run(
                tool,
                &["draw", "-q", "-r", &dpi, "-o", pattern.to_str().unwrap(), path, &format!("1-{last}")],
            );
        }
    }
    let mut pages = BTreeMap::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let number = path.file_stem().unwrap().to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        if bytes.len() > 10 {
            pages.insert(number, Picture::read(&bytes));
        }
    }
    pages
}

/// The part of a picture that is different in another.
#[derive(Debug, Default)]
pub struct Change {
    pub pixels: usize,
    /// Left, top, right, bottom of all of them; none where nothing changed.
    pub bounds: Option<[usize; 4]>,
    /// The first that became anything but redder.
    pub not_red: Option<(usize, usize, [u8; 3], [u8; 3])>,
}

/// What changed from one picture to another of the same size.
pub fn change(before: &Picture, after: &Picture) -> Change {
    assert_eq!((before.width, before.height), (after.width, after.height));
    let mut change = Change::default();
    for (index, (old, new)) in before.pixels.iter().zip(&after.pixels).enumerate() {
        if old == new {
            continue;
        }
        let (x, y) = (index % before.width, index / before.width);
        change.pixels += 1;
        let [left, top, right, bottom] = change.bounds.unwrap_or([x, y, x, y]);
        change.bounds = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
        // Red over anything: more red or as much, and no more of the others, give or take the rounding.
        let redder = new[0].saturating_add(3) >= old[0]
            && new[1] <= old[1].saturating_add(3)
            && new[2] <= old[2].saturating_add(3);
        if !redder && change.not_red.is_none() {
            change.not_red = Some((x, y, *old, *new));
        }
    }
    change
}
