//! Documents made to do harm: none may panic, run long, or take the process with it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use pdf::{Limits, Look, Pages, Reason, Stamped, Unstamped, stamp};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// In a build without optimisation; with it, each is a tenth.
const TIME_MAX: Duration = Duration::from_secs(20);

fn attempt(what: &str, bytes: &[u8]) -> Result<Stamped, Unstamped> {
    let start = Instant::now();
    let result = stamp(bytes, &[("a", "b")], Look::Visible, Pages::All, &Limits::default());
    let took = start.elapsed();
    println!(
        "{what}: {took:.1?}, {}",
        result.as_ref().map_or_else(ToString::to_string, |s| format!("{:?}", s.how))
    );
    assert!(took < TIME_MAX, "{what} took {took:?}");
    result
}

fn file(objects: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"%PDF-1.5\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in (1..).zip(objects) {
        let _ = writeln!(table, "{:010} 00000 n ", bytes.len());
        bytes.extend(format!("{number} 0 obj\n").as_bytes());
        bytes.extend_from_slice(object);
        bytes.extend(b"\nendobj\n");
    }
    let start = bytes.len();
    let _ = write!(table, "trailer\n<</Root 1 0 R/Size {}>>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1);
    bytes.extend(table.as_bytes());
    bytes
}

fn stream(entries: &str, data: &[u8]) -> Vec<u8> {
    [format!("<</Length {}{entries}>>stream\n", data.len()).as_bytes(), data, b"\nendstream"].concat()
}

fn zeros(bytes: usize) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let block = vec![b' '; 1 << 20];
    (0..bytes >> 20).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.finish().unwrap()
}

const CATALOG: &[u8] = b"<</Type/Catalog/Pages 2 0 R>>";
const TREE: &[u8] = b"<</Type/Pages/Kids[3 0 R]/Count 1>>";
const PAGE: &[u8] = b"<</Type/Page/Parent 2 0 R/Contents 4 0 R>>";

#[test]
fn bombs_are_left_unstamped() {
    let bomb = zeros(1 << 30);
    let content = file(&[CATALOG, TREE, PAGE, &stream("/Filter/FlateDecode", &bomb)]);
    assert!(matches!(attempt("content bomb", &content).unwrap_err().reason, Reason::TooMuch(_)));

    // Compressed twice, and thrice.
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bomb).unwrap();
    let twice = encoder.finish().unwrap();
    let content = file(&[CATALOG, TREE, PAGE, &stream("/Filter[/FlateDecode/FlateDecode]", &twice)]);
    assert!(matches!(attempt("bomb in a bomb", &content).unwrap_err().reason, Reason::TooMuch(_)));

    // Many small ones rather than a large.
    let contents: String = (4..304).map(|number| format!("{number} 0 R ")).collect();
    let page = format!("<</Type/Page/Parent 2 0 R/Contents[{contents}]>>");
    let small = stream("/Filter/FlateDecode", &zeros(1 << 20));
    let mut objects = vec![CATALOG, TREE, page.as_bytes()];
    objects.extend(std::iter::repeat_n(&small[..], 300));
    assert!(matches!(attempt("many bombs", &file(&objects)).unwrap_err().reason, Reason::TooMuch(_)));
}

#[test]
fn bombs_in_the_cross_reference_are_left_unstamped() {
    for (what, entries) in [
        (
            "cross-reference bomb",
            "/Type/XRef/W[1 1 1]/Index[0 400000000]/Size 400000000/Root 1 0 R/Filter/FlateDecode",
        ),
        (
            "cross-reference bomb of nothing",
            "/Type/XRef/W[0 0 1]/Size 400000000/Root 1 0 R/Filter/FlateDecode",
        ),
    ] {
        let data = zeros(256 << 20);
        let mut bytes = b"%PDF-1.5\n".to_vec();
        bytes.extend(b"1 0 obj\n");
        bytes.extend(stream(entries, &data));
        bytes.extend(b"\nendobj\nstartxref\n9\n%%EOF\n");
        assert!(attempt(what, &bytes).is_err());
    }
    let huge = format!(
        "%PDF-1.4\nxref\n0 4294967295\n{}trailer<</Root 1 0 R/Size 9>>\nstartxref\n9\n%%EOF",
        "0 0 f\n".repeat(100_000)
    );
    assert!(attempt("a table longer than the file", huge.as_bytes()).is_err());
}

#[test]
fn nesting_of_every_kind_is_left_unstamped() {
    for open in ["[", "<</A ", "("] {
        let deep = open.repeat(1_000_000);
        for (what, objects) in [
            ("deep catalog", vec![deep.as_bytes(), TREE, PAGE]),
            ("deep page", vec![CATALOG, TREE, deep.as_bytes()]),
            ("deep resources", vec![CATALOG, TREE, b"<</Type/Page/Resources 4 0 R>>", deep.as_bytes()]),
        ] {
            let _ = attempt(&format!("{what} {open}"), &file(&objects));
        }
        // And where the cross-reference is of no help.
        let recovered =
            [b"%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n2 0 obj ", deep.as_bytes()].concat();
        let _ = attempt(&format!("deep without a cross-reference {open}"), &recovered);
    }
}

#[test]
fn a_page_tree_that_is_deep_wide_or_a_circle_ends() {
    let circle = file(&[CATALOG, b"<</Kids[3 0 R]/Count 1>>", b"<</Kids[2 0 R]/Count 1>>"]);
    assert_eq!(attempt("circle", &circle).unwrap_err().reason, Reason::Circle);
    let chain: Vec<String> = (3..20_003).map(|next| format!("<</Kids[{next} 0 R]/Count 1>>")).collect();
    let mut objects = vec![CATALOG];
    objects.extend(chain.iter().map(String::as_bytes));
    assert!(matches!(attempt("chain", &file(&objects)).unwrap_err().reason, Reason::TooMuch(_)));
    // Each node names the next twenty times: 20^8 pages in a file of a few lines.
    let fan: Vec<String> =
        (3..11).map(|next| format!("<</Kids[{}]/Count 1>>", format!("{next} 0 R ").repeat(20))).collect();
    let mut objects = vec![CATALOG];
    objects.extend(fan.iter().map(String::as_bytes));
    objects.push(b"<</Type/Page>>");
    assert!(attempt("fan", &file(&objects)).is_err());
}

#[test]
fn references_that_lead_nowhere_or_in_circles_end() {
    for page in [
        "<</Type/Page/Contents 3 0 R>>",
        "<</Type/Page/Resources 3 0 R/MediaBox 3 0 R/Rotate 3 0 R>>",
        "3 0 R",
        "<</Type/Page/MediaBox[4 0 R 4 0 R 4 0 R 4 0 R]>>",
    ] {
        let _ = attempt(page, &file(&[CATALOG, TREE, page.as_bytes(), b"4 0 R"]));
    }
    let itself = b"<</Length 4 0 R>>stream\nx\nendstream";
    let _ = attempt("a length that is its own stream", &file(&[CATALOG, TREE, PAGE, itself]));
}

#[test]
fn an_object_stream_within_itself_ends() {
    let mut bytes = b"%PDF-1.5\n".to_vec();
    // Object 1 is in stream 2, which is in stream 2.
    let rows: Vec<u8> = [[0u8, 0, 0], [2, 2, 0], [2, 2, 0]].concat();
    bytes.extend(b"3 0 obj\n");
    bytes.extend(stream("/Type/XRef/W[1 1 1]/Size 3/Root 1 0 R", &rows));
    bytes.extend(b"\nendobj\nstartxref\n9\n%%EOF\n");
    assert!(attempt("an object stream within itself", &bytes).is_err());
}

#[test]
fn content_of_nothing_but_saves_or_brackets_ends() {
    for content in ["q ", "Q ", "BT ", "/x BMC ", "[", "<<", "(", "BI ID EI ", "BI "] {
        let content = content.repeat(200_000);
        let _ = attempt(&content[..6], &file(&[CATALOG, TREE, PAGE, &stream("", content.as_bytes())]));
    }
}

#[test]
fn recovery_of_a_hostile_file_ends() {
    let head = "%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj\n2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj\n3 0 obj <</Type/Page>> endobj\n";
    for (what, tail) in [
        ("zeros", format!("4 0 obj [{}] endobj", "0 ".repeat(8_000_000))),
        ("objects", (4..100_000).map(|number| format!("{number} 0 obj 0 endobj\n")).collect()),
        ("streams without an end", "4 0 obj <</Length 5>> stream\n".repeat(50_000)),
        ("heads", "4 0 obj ".repeat(500_000)),
        ("trailers", "trailer <<".repeat(300_000)),
        ("startxrefs", "startxref\n9\n".repeat(300_000)),
    ] {
        let _ = attempt(&format!("recovery: {what}"), format!("{head}{tail}").as_bytes());
    }
}

#[test]
fn any_text_as_metadata_is_stamped() {
    let original = file(&[CATALOG, TREE, b"<</Type/Page>>"]);
    let all: String = ('\0'..'\u{3100}').collect();
    let long = "x".repeat(1_000_000);
    for (name, value) in
        [("", ""), ("\0\n", "\r\n\r\n"), ("n", &all), (&long, &long), ("]]>", "&<>\u{FFFE}"), ("(", ")\\")]
    {
        for look in [Look::Visible, Look::Invisible] {
            let start = Instant::now();
            let stamped = stamp(&original, &[(name, value)], look, Pages::First, &Limits::default()).unwrap();
            assert!(start.elapsed() < TIME_MAX);
            assert!(stamped.bytes.starts_with(&original));
        }
    }
    assert!(stamp::<&str, &str>(&original, &[], Look::Visible, Pages::First, &Limits::default()).is_ok());
}

/// Corpus files cut and changed at random: the seed is fixed, and printed with what fails.
#[test]
fn documents_changed_at_random_never_panic() {
    let samples = support::corpus();
    let small: Vec<_> = samples.iter().filter(|sample| (100..40_000).contains(&sample.bytes.len())).collect();
    if small.is_empty() {
        return;
    }
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..3_000 {
        let sample = small[random(small.len())];
        let mut bytes = sample.bytes.clone();
        for _ in 0..=random(6) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes.truncate(at.max(10)),
                1 => bytes[at] = random(256) as u8,
                2 => drop(bytes.splice(at..at, *b"[<<(\0")),
                3 => {
                    // A number becomes another.
                    if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                        bytes[at + digit] = b'0' + random(10) as u8;
                    }
                }
                _ => {
                    let end = (at + random(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let result = std::panic::catch_unwind(|| {
            stamp(&bytes, &[("a", "Ж")], Look::Visible, Pages::All, &Limits::default())
        });
        assert!(result.is_ok(), "round {round}, {}", sample.name);
    }
}
