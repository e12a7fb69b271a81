"""What benches/compare runs; its argument is our example `stamp`."""

import io
import os
import subprocess
import sys
import tempfile
import time

import pikepdf
import pymupdf

OURS = sys.argv[1]
LINES = ["patient_id: 4711", "patient_name: Müller Łukasz", "order: ORD-1", "received: 2024-05-03"]
FONT = os.path.join(os.path.dirname(__file__), "..", "fonts", "DejaVuSans.ttf")
SIZES = [50 << 10, 1 << 20, 10 << 20]
TIMES = 7


def document(path, size):
    """A page with text and an incompressible picture for every 50 KiB."""
    pages = max(1, size // (50 << 10))
    side = int((size / pages - 2000) ** 0.5)
    pdf = pikepdf.new()
    for number in range(pages):
        image = pikepdf.Stream(pdf, os.urandom(side * side))
        image.Type, image.Subtype = pikepdf.Name.XObject, pikepdf.Name.Image
        image.Width = image.Height = side
        image.ColorSpace, image.BitsPerComponent = pikepdf.Name.DeviceGray, 8
        page = pdf.add_blank_page(page_size=(595, 842))
        font = pikepdf.Dictionary(Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica)
        page.obj.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F1=font), XObject=pikepdf.Dictionary(I=image))
        text = "".join(f"(Line {line} of page {number}) ' " for line in range(20))
        content = f"q 400 0 0 400 50 50 cm /I Do Q BT /F1 10 Tf 14 TL 50 800 Td {text}ET"
        page.obj.Contents = pikepdf.Stream(pdf, content.encode())
    pdf.save(path)


def with_pikepdf(source, target):
    """Text in Helvetica, Info and XMP; the file written anew, as pikepdf does."""
    with pikepdf.open(source) as pdf:
        page = pdf.pages[0]
        font = pikepdf.Dictionary(
            Type=pikepdf.Name.Font,
            Subtype=pikepdf.Name.Type1,
            BaseFont=pikepdf.Name.Helvetica,
            Encoding=pikepdf.Name.WinAnsiEncoding,
        )
        name = page.add_resource(pdf.make_indirect(font), pikepdf.Name.Font)
        body = "".join(f"({line}) Tj T* " for line in LINES).encode("cp1252", "replace")
        page.contents_add(b"q", prepend=True)
        page.contents_add(b"Q q 1 0 0 rg BT " + bytes(str(name), "ascii") + b" 7 Tf 8.4 TL 12 823 Td " + body + b"ET Q")
        for line in LINES:
            key, value = line.split(": ", 1)
            pdf.docinfo["/hl7server:" + key] = value
        with pdf.open_metadata() as xmp:
            xmp["{urn:hl7server:metadata:1}patient_id"] = "4711"
        pdf.save(target)


def with_pymupdf(source, target):
    """Text with an embedded font, metadata; saved incrementally to a copy, its quickest way."""
    with open(source, "rb") as original, open(target, "wb") as copy:
        copy.write(original.read())
    pdf = pymupdf.open(target)
    page = pdf[0]
    page.insert_font("dejavu", FONT)
    for row, line in enumerate(LINES):
        page.insert_text((12, 19 + row * 8.4), line, fontname="dejavu", fontsize=7, color=(1, 0, 0))
    pdf.set_metadata({"keywords": "; ".join(LINES)})
    pdf.saveIncr()
    pdf.close()


def with_qpdf(source, target, stamp):
    """A page made beforehand laid over the first; the making is not counted."""
    subprocess.run(["qpdf", source, "--overlay", stamp, "--to=1", "--", target], check=True)


def fastest(work):
    best = float("inf")
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def peak(name, *arguments):
    """KiB at most of a fresh process that does it once, less what it has before."""
    call = [sys.executable, __file__, OURS, "--once", name, *arguments]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def once(name, arguments):
    before = own_peak()
    WORK[name](*arguments)
    return own_peak() - before


def own_peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def ours(source, target, look):
    output = subprocess.run([OURS, source, target, look, "first", str(TIMES * 3)], capture_output=True, text=True, check=True)
    time_ms = float(output.stdout.split()[0])
    output = subprocess.run([OURS, source, target, look, "first"], capture_output=True, text=True, check=True)
    return time_ms, int(output.stdout.split("\t")[1].split()[0])


WORK = {
    "pikepdf": lambda source, target, stamp: with_pikepdf(source, target),
    "PyMuPDF": lambda source, target, stamp: with_pymupdf(source, target),
    "qpdf": with_qpdf,
}

if sys.argv[2:3] == ["--once"]:
    print(once(sys.argv[3], sys.argv[4:]))
    sys.exit()

with tempfile.TemporaryDirectory() as folder:
    stamp, target = os.path.join(folder, "stamp.pdf"), os.path.join(folder, "out.pdf")
    blank = pymupdf.open()
    blank.new_page(width=595, height=842).insert_text((12, 19), LINES[0], fontsize=7, color=(1, 0, 0))
    blank.save(stamp)
    print(f"{'document':>10}  {'':<14} {'ms':>9}  {'peak KiB':>9}  {'x file':>6}")
    for size in SIZES:
        source = os.path.join(folder, f"{size}.pdf")
        document(source, size)
        length = os.path.getsize(source)
        rows = []
        for look in ("visible", "invisible"):
            rows.append((f"pdf {look}", *ours(source, target, look)))
        for name, work in WORK.items():
            milliseconds = fastest(lambda: work(source, target, stamp))
            # Left out for qpdf, which is a process of its own.
            rows.append((name, milliseconds, peak(name, source, target, stamp) if name != "qpdf" else None))
        for name, milliseconds, kib in rows:
            memory = f"{kib:>9}  {kib * 1024 / length:>6.1f}" if kib is not None else ""
            print(f"{length:>10}  {name:<14} {milliseconds:>9.2f}  {memory}".rstrip())
