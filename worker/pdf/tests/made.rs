//! Documents made for one difficulty each, and looked at through poppler and MuPDF.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use pdf::{How, Limits, Look, Pages, stamp};
use std::fmt::Write as _;
use std::path::PathBuf;
use support::{change, draw, have};
use tempfile::TempDir;

const TOOLS: [&str; 4] = ["qpdf", "pdftotext", "pdftoppm", "mutool"];
const LINES: [(&str, &str); 2] = [("id", "4711"), ("name", "Жук")];

/// A sound file of these objects, the first of which is number 1 and the catalog.
fn file(objects: &[String]) -> Vec<u8> {
    let mut text = String::from("%PDF-1.4\n");
    let mut places = Vec::new();
    for (number, object) in (1..).zip(objects) {
        places.push(text.len());
        let _ = write!(text, "{number} 0 obj\n{object}\nendobj\n");
    }
    let start = text.len();
    let _ = write!(text, "xref\n0 {}\n0000000000 65535 f \n", places.len() + 1);
    places.iter().for_each(|place| writeln!(text, "{place:010} 00000 n ").unwrap());
    let _ = write!(text, "trailer\n<</Root 1 0 R/Size {}>>\nstartxref\n{start}\n%%EOF\n", places.len() + 1);
    text.into_bytes()
}

/// One page with these entries and this content.
fn page(entries: &str, content: &str) -> Vec<u8> {
    file(&[
        "<</Type/Catalog/Pages 2 0 R>>".into(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".into(),
        format!("<</Type/Page/Parent 2 0 R {entries}>>"),
        format!("<</Length {}>>stream\n{content}\nendstream", content.len()),
    ])
}

struct Stamped {
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Stamped {
    fn of(original: &[u8], look: Look, pages: Pages) -> Stamped {
        let stamped = stamp(original, &LINES, look, pages, &Limits::default()).unwrap();
        assert_eq!(stamped.how, How::Incremental);
        assert!(stamped.bytes.starts_with(original));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("before.pdf"), original).unwrap();
        std::fs::write(folder.path().join("after.pdf"), &stamped.bytes).unwrap();
        Stamped { folder, bytes: stamped.bytes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asserts that both tools show red letters at the upper left of the first page, wholly within it, and nothing else
    /// changed.
    fn assert_at_upper_left(&self, dpi: u32, what: &str) {
        let grade = |name| support::qpdf_check(&self.path(name)).0;
        assert!(grade("after.pdf") <= grade("before.pdf"), "{what}");
        for tool in ["pdftoppm", "mutool"] {
            let (before, after) =
                (draw(tool, &self.path("before.pdf"), dpi, 1), draw(tool, &self.path("after.pdf"), dpi, 1));
            let (before, after) = (&before[&1], &after[&1]);
            let found = change(before, after);
            let [left, top, right, bottom] =
                found.bounds.unwrap_or_else(|| panic!("{what}: {tool} shows nothing"));
            assert_eq!(found.not_red, None, "{what}: {tool}");
            let near = (dpi as usize * 12 / 72 + 4).min(before.width / 4 + 4);
            assert!(left <= near && top <= near.max(before.height / 4), "{what}: {tool} {found:?}");
            assert!(right + 1 < before.width && bottom + 1 < before.height, "{what}: {tool} {found:?}");
        }
    }

    fn text(&self) -> String {
        support::text_of_first_page(&self.path("after.pdf"))
    }
}

#[test]
fn the_stamp_is_at_the_displayed_upper_left_of_every_page_there_can_be() {
    if !have(&TOOLS) {
        return;
    }
    for rotate in [0, 90, 180, 270, -90] {
        for (boxes, dpi) in [
            ("/MediaBox[0 0 300 200]", 72),
            ("/MediaBox[-150 -100 150 100]", 72),
            ("/MediaBox[1000 2000 1300 2200]", 72),
            ("/MediaBox[300 200 0 0]", 72),
            ("/MediaBox[0 0 600 400]/CropBox[200 100 500 300]", 72),
            ("/MediaBox[0 0 300 200]/CropBox[-50 -50 1000 1000]", 72),
            ("/MediaBox[0 0 30 20]", 600),
            ("/MediaBox[0 0 20 200]", 600),
            ("/MediaBox[0 0 4 3]", 4000),
        ] {
            let entries = format!("{boxes}/Rotate {rotate}/Contents 4 0 R");
            let stamped =
                Stamped::of(&page(&entries, "0 0 1 RG 1 w 3 3 10 10 re S"), Look::Visible, Pages::First);
            stamped.assert_at_upper_left(dpi, &entries);
        }
    }
}

#[test]
fn what_pages_inherit_counts() {
    if !have(&TOOLS) {
        return;
    }
    let original = file(&[
        "<</Type/Catalog/Pages 2 0 R>>".into(),
        "<</Type/Pages/Kids[3 0 R]/Count 1/MediaBox[0 0 10 10]/Rotate 90>>".into(),
        "<</Type/Pages/Parent 2 0 R/Kids[4 0 R]/Count 1/MediaBox 5 0 R/CropBox[100 100 400 300]/Rotate 270>>"
            .into(),
        "<</Type/Page/Parent 3 0 R>>".into(),
        "[0 0 6 0 R 400]".into(),
        "500".into(),
    ]);
    Stamped::of(&original, Look::Visible, Pages::First).assert_at_upper_left(72, "inherited");
}

#[test]
fn a_user_unit_leaves_the_letters_at_seven_points() {
    if !have(&TOOLS) {
        return;
    }
    let original = page("/MediaBox[0 0 4 3]/UserUnit 72/Contents 4 0 R", "1 1 1 1 re f");
    let stamped = Stamped::of(&original, Look::Visible, Pages::First);
    // MuPDF knows user units, and draws as on a page of 288 points.
    let (before, after) = (
        draw("mutool", &stamped.path("before.pdf"), 72, 1),
        draw("mutool", &stamped.path("after.pdf"), 72, 1),
    );
    assert_eq!(before[&1].width, 288);
    let [left, top, right, bottom] = change(&before[&1], &after[&1]).bounds.unwrap();
    assert!((8..=14).contains(&left) && (8..=14).contains(&top), "{left} {top}");
    assert!(right < 60 && (18..=32).contains(&bottom), "{right} {bottom}");
}

#[test]
fn content_that_leaves_its_mess_behind_does_not_move_colour_hide_or_clip_the_stamp() {
    if !have(&TOOLS) {
        return;
    }
    for content in [
        "q q q 0.1 0 0 0.1 50 50 cm 10 10 100 100 re f",
        "0.1 0 0 0.1 50 50 cm 0 0 1 rg",
        "Q Q 2 0 0 2 0 0 cm Q 10 10 20 20 re f",
        "q Q Q 0 0 5 5 re W n 0 g",
        "q 0 0 5 5 re W n",
        "BT /F1 12 Tf 3 Tr 400 Tz 20 Ts",
        "/OC /Hidden BDC 10 10 50 50 re f",
        "10 10 50 50 re f (never closed",
        "10 10 50 50 re f <</A",
        "10 10 50 50 re f BI /W 100 /H 100 /CS /G /BPC 8 ID \x01\x02",
        "not content at all >> ] ) }",
        "/Nothing gs /Nothing sh /Nothing Do 1 2 3",
        "",
    ] {
        let original = page("/MediaBox[0 0 300 200]/Contents 4 0 R", content);
        let stamped = Stamped::of(&original, Look::Visible, Pages::First);
        stamped.assert_at_upper_left(72, content);
        assert!(stamped.text().contains("id: 4711") && stamped.text().contains("name: Жук"), "{content}");
    }
}

#[test]
fn contents_of_every_kind_are_kept_and_none_is_no_hindrance() {
    if !have(&TOOLS) {
        return;
    }
    for contents in [
        "",
        "/Contents null",
        "/Contents[]",
        "/Contents[4 0 R 4 0 R]",
        "/Contents[[4 0 R]]",
        "/Contents 99 0 R",
        "/Contents 2 0 R",
    ] {
        let entries = format!("/MediaBox[0 0 300 200]{contents}");
        let stamped = Stamped::of(&page(&entries, "0 0 1 rg 200 20 50 50 re f"), Look::Visible, Pages::First);
        stamped.assert_at_upper_left(72, contents);
    }
}

#[test]
fn resources_shared_with_another_page_stay_as_they_are_for_it() {
    if !have(&TOOLS) {
        return;
    }
    let original = file(&[
        "<</Type/Catalog/Pages 2 0 R>>".into(),
        "<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2/MediaBox[0 0 300 200]>>".into(),
        "<</Type/Page/Parent 2 0 R/Resources 5 0 R/Contents 7 0 R>>".into(),
        "<</Type/Page/Parent 2 0 R/Resources 5 0 R/Contents 7 0 R>>".into(),
        "<</XObject 6 0 R>>".into(),
        "<</HL7Stamp 8 0 R>>".into(),
        "<</Length 12>>stream\n/HL7Stamp Do\nendstream".into(),
        "<</Type/XObject/Subtype/Form/BBox[0 0 50 50]/Length 17>>stream\n10 10 20 20 re f \nendstream".into(),
    ]);
    let first = Stamped::of(&original, Look::Visible, Pages::First);
    first.assert_at_upper_left(72, "shared");
    let added = &first.bytes[original.len()..];
    for number in [5, 6] {
        assert!(
            memchr::memmem::find(added, format!("\n{number} 0 obj").as_bytes()).is_none(),
            "{number} was changed"
        );
    }
    for tool in ["pdftoppm", "mutool"] {
        let (before, after) =
            (draw(tool, &first.path("before.pdf"), 72, 2), draw(tool, &first.path("after.pdf"), 72, 2));
        assert!(before[&2] == after[&2], "{tool} changed the other page");
        assert!(
            before[&1].pixels.contains(&[0, 0, 0]) && after[&1].pixels.contains(&[0, 0, 0]),
            "{tool} lost the old one"
        );
    }
    // Where both are stamped they go on sharing.
    let all = Stamped::of(&original, Look::Visible, Pages::All);
    assert_eq!(memchr::memmem::find_iter(&all.bytes[original.len()..], b"/HL7Stamp1 ").count(), 1 + 2);
}

#[test]
fn a_page_written_out_in_its_parent_is_stamped() {
    if !have(&TOOLS) {
        return;
    }
    let original = file(&[
        "<</Type/Catalog/Pages 2 0 R>>".into(),
        "<</Type/Pages/Kids[<</Type/Page/MediaBox[0 0 300 200]>>]/Count 1>>".into(),
    ]);
    let stamped = stamp(&original, &LINES, Look::Visible, Pages::All, &Limits::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("after.pdf");
    std::fs::write(&path, &stamped.bytes).unwrap();
    assert!(support::text_of_first_page(&path).contains("id: 4711"));
}

#[test]
fn any_unicode_is_found_by_search_in_both_looks() {
    if !have(&TOOLS) {
        return;
    }
    let value = "Ærøskøbing Łódź Ελλάδα Москва 北京 東京 한국 \u{1F600} \u{1D11E} e\u{301}";
    for look in [Look::Visible, Look::Invisible] {
        let original = page("/MediaBox[0 0 600 400]", "");
        let stamped = stamp(&original, &[("name", value)], look, Pages::First, &Limits::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("after.pdf");
        std::fs::write(&path, &stamped.bytes).unwrap();
        let text = support::text_of_first_page(&path);
        for word in value.split(' ') {
            let word = word.replace("e\u{301}", "é");
            assert!(text.contains(&word), "{look:?}: {word} is not in {text}");
        }
    }
}

#[test]
fn the_metadata_is_in_info_and_xmp_beside_what_was_there() {
    let xmp = "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
               <rdf:Description rdf:about='' xmlns:pdfaid='http://www.aiim.org/pdfa/ns/id/' pdfaid:part='1' \
               pdfaid:conformance='B'/></rdf:RDF></x:xmpmeta>";
    let mut original = String::from_utf8(file(&[
        "<</Type/Catalog/Pages 2 0 R/Metadata 4 0 R>>".into(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".into(),
        "<</Type/Page/Parent 2 0 R>>".into(),
        format!("<</Type/Metadata/Subtype/XML/Length {}>>stream\n{xmp}\nendstream", xmp.len()),
        "<</Title(Old title)/patient_id(other)>>".into(),
    ]))
    .unwrap();
    original = original.replace("/Size", "/Info 5 0 R/Size");
    let lines = [("patient_id", "4711"), ("Title", "Ж")];
    let stamped =
        stamp(original.as_bytes(), &lines, Look::Invisible, Pages::First, &Limits::default()).unwrap();
    let added = String::from_utf8_lossy(&stamped.bytes[original.len()..]).into_owned();
    for kept in ["/Title (Old title)", "/patient_id (other)", "pdfaid:part='1'", "pdfaid:conformance='B'"] {
        assert!(added.contains(kept), "{kept}");
    }
    for new in [
        "/hl7server:patient_id (4711)",
        "/hl7server:Title <FEFF0416>",
        "<hl7server:patient_id>4711</",
        "<hl7server:Title>Ж</",
    ] {
        assert!(added.contains(new), "{new}");
    }
    // An archive has every font embedded.
    assert!(!added.contains("/Helvetica"));
}

#[test]
fn a_text_laid_out_reads_back_and_is_sound() {
    if !have(&TOOLS) {
        return;
    }
    let text: String =
        (1..=150).map(|line| format!("Zeile {line:03}  Łódź Москва 北京  \u{2502}\n")).collect();
    let document = pdf::layout(&text, "Befund Müller", &[("patient_id", "4711")]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.pdf");
    std::fs::write(&path, &document).unwrap();
    assert_eq!(support::qpdf_check(&path).0, 0);
    assert_eq!(support::poppler_pages(&path), Some(3));
    assert_eq!(support::mupdf_pages(&path), Some(3));
    let output = support::run("pdftotext", &["-layout", path.to_str().unwrap(), "-"]);
    let read = String::from_utf8_lossy(&output.stdout).into_owned();
    for piece in ["Befund Müller", "patient_id: 4711", "Zeile 001", "Łódź Москва 北京", "Zeile 150", "3/3"]
    {
        assert!(read.contains(piece), "{piece}\n{}", &read[..1000]);
    }
    let output = support::run("pdffonts", &[path.to_str().unwrap()]);
    let fonts = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(fonts.lines().skip(2).all(|font| font.contains("yes yes yes")), "{fonts}");
}
