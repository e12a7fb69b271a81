//! The stamp of documents of 50 KiB, 1 MiB and 10 MiB. `benches/compare` sets it beside pikepdf, PyMuPDF and qpdf.

use divan::{Bencher, counter::BytesCount};
use pdf::{Limits, Look, Pages, stamp};
use std::fmt::Write as _;

const LINES: [(&str, &str); 4] = [
    ("patient_id", "4711"),
    ("patient_name", "Müller Łukasz Жук 山川"),
    ("order", "ORD-1"),
    ("received", "2024-05-03"),
];
const SIZES: [usize; 3] = [50 << 10, 1 << 20, 10 << 20];

fn main() {
    divan::main();
}

/// A document of some `bytes`: a page with text and a picture for every 50 KiB, as reports with scans are.
fn document(bytes: usize) -> Vec<u8> {
    let pages = (bytes / (50 << 10)).max(1);
    let picture = (bytes / pages).saturating_sub(2_000);
    let mut objects = vec!["<</Type/Catalog/Pages 2 0 R>>".as_bytes().to_vec()];
    let kids: String = (0..pages).map(|page| format!("{} 0 R ", 4 + page * 3)).collect();
    objects.push(format!("<</Type/Pages/Kids[{kids}]/Count {pages}/MediaBox[0 0 595 842]>>").into_bytes());
    objects.push(b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>".to_vec());
    for page in 0..pages {
        let (contents, image) = (5 + page * 3, 6 + page * 3);
        objects.push(
            format!("<</Type/Page/Parent 2 0 R/Contents {contents} 0 R/Resources<</Font<</F1 3 0 R>>/XObject<</I {image} 0 R>>>>>>")
                .into_bytes(),
        );
        let mut text = String::from("q 400 0 0 400 50 50 cm /I Do Q BT /F1 10 Tf 14 TL 50 800 Td ");
        (0..20).for_each(|line| _ = write!(text, "(Line {line} of page {page}, as reports have them) ' "));
        text.push_str("ET");
        objects.push(format!("<</Length {}>>stream\n{text}\nendstream", text.len()).into_bytes());
        let side = picture.isqrt();
        let head = format!(
            "<</Type/XObject/Subtype/Image/Width {side}/Height {side}/ColorSpace/DeviceGray/BitsPerComponent 8/Length {}>>stream\n",
            side * side
        );
        let pixels = (0..side * side).map(|at| (at * at / 7 + page) as u8);
        objects.push(head.into_bytes().into_iter().chain(pixels).chain(*b"\nendstream").collect());
    }
    let mut file = b"%PDF-1.4\n%\xE2\xE3\xCF\xD3\n".to_vec();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in (1..).zip(&objects) {
        let _ = writeln!(table, "{:010} 00000 n ", file.len());
        file.extend(format!("{number} 0 obj\n").bytes());
        file.extend_from_slice(object);
        file.extend_from_slice(b"\nendobj\n");
    }
    let start = file.len();
    let _ = write!(table, "trailer\n<</Root 1 0 R/Size {}>>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1);
    file.extend(table.bytes());
    file
}

fn bench(bencher: Bencher, bytes: usize, look: Look, pages: Pages) {
    let document = document(bytes);
    bencher
        .counter(BytesCount::new(document.len()))
        .bench(|| stamp(divan::black_box(&document), &LINES, look, pages, &Limits::default()));
}

#[divan::bench(args = SIZES)]
fn visible_on_the_first_page(bencher: Bencher, bytes: usize) {
    bench(bencher, bytes, Look::Visible, Pages::First);
}

#[divan::bench(args = SIZES)]
fn invisible_on_the_first_page(bencher: Bencher, bytes: usize) {
    bench(bencher, bytes, Look::Invisible, Pages::First);
}

#[divan::bench(args = SIZES)]
fn visible_on_all_pages(bencher: Bencher, bytes: usize) {
    bench(bencher, bytes, Look::Visible, Pages::All);
}

#[divan::bench]
fn a_text_of_ten_pages_laid_out(bencher: Bencher) {
    let text = "Befund: unauffällig. Łódź, Москва.\n".repeat(550);
    bencher.bench(|| pdf::layout(divan::black_box(&text), "Befund", &LINES));
}
