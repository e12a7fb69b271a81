"""The same work by hl7server and by other programs, one after the other, with one load generator: PROGRAM NODE_MODULES
PYTHON [FOLDER]. Prints one table; files go below FOLDER, whose file system is what is measured.

hl7server flushes before it answers and once more before a message counts as delivered; its figures are those of
delivered messages, but for `acknowledged`. The others are measured as they come, unflushed, and with a flush of each
file before the answer.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

program, node_modules, python = sys.argv[1:4]
parent = sys.argv[4] if len(sys.argv) > 4 else None
here = pathlib.Path(__file__).resolve().parent
SECONDS = os.environ.get("SECONDS_EACH", "4")
TICK = os.sysconf("SC_CLK_TCK")

WORK = [
    # name, what the load generator sends, what peers do, which figure is ours
    ("ADT acknowledged", ["--kind", "adt", "--connections", "16"], "acknowledged", "acknowledged_per_s"),
    ("ADT archived", ["--kind", "adt", "--connections", "16"], "archived", "archived_per_s"),
    ("ORU 100 KiB", ["--kind", "oru", "--size", "100KiB", "--connections", "4"], "documents", "archived_per_s"),
    ("ORU 1 MiB", ["--kind", "oru", "--size", "1MiB", "--connections", "4"], "documents", "archived_per_s"),
]
PEERS = [
    ("python hl7 + PyMuPDF", [python, str(here / "speed.py")]),
    ("node-hl7-server + pdf-lib", ["node", str(here / "speed.js")]),
]


def free_port():
    for port in range(20_000 + os.getpid() % 8_000, 29_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit("every port from 20000 to 28999 is taken")


def bench(arguments):
    """One row of what `hl7server bench` measured, and what it complained of."""
    ran = subprocess.run([program, "bench", "--json", "--seconds", SECONDS, *arguments], capture_output=True, text=True)
    line = ran.stdout.strip().splitlines()[-1:] or ["null"]
    report = json.loads(line[0])
    fault = ran.stderr.strip().splitlines()[-1:] if ran.returncode else []
    return (report["rows"][0] if report else None), fault


def processor_time(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def peer(command, work, load, flush):
    folder = tempfile.mkdtemp(prefix="hl7server-peers-", dir=parent)
    port = free_port()
    environment = {**os.environ, "NODE_PATH": node_modules}
    child = subprocess.Popen(
        [*command, str(port), work, folder, "yes" if flush else "no"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() > deadline:
                    child.kill()
                    return None, ["did not start: " + child.stderr.read().decode(errors="replace").strip()[-200:]]
                time.sleep(0.05)
        before = processor_time(child.pid)
        row, fault = bench(["--to", f"127.0.0.1:{port}", *load])
        if row is None or not row["acknowledged"]:
            return None, fault
        row["cpu_us"] = (processor_time(child.pid) - before) / row["acknowledged"] * 1e6
        return row, fault
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    head = ("work", "by", "flushed", "messages/s", "processor time", "hl7server is")
    rows = [head]
    for name, load, work, figure in WORK:
        row, fault = bench([*load, *(["--folder", parent] if parent else [])])
        if row is None:
            sys.exit(f"{name}: {' '.join(fault)}")
        ours = row[figure]
        rows.append((name, "hl7server", "yes", f"{ours:,.0f}", f"{row['server_cpu_us']:,.0f} µs", ""))
        for by, command in PEERS:
            for flush in [False] if work == "acknowledged" else [False, True]:
                row, fault = peer(command, work, load, flush)
                if row is None:
                    rows.append((name, by, "yes" if flush else "no", "-", "-", " ".join(fault)))
                    continue
                theirs = row["acknowledged_per_s"]
                rows.append(
                    (name, by, "yes" if flush else "no", f"{theirs:,.0f}", f"{row['cpu_us']:,.0f} µs", f"{ours / theirs:.1f} ×")
                )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [cell.rjust(width) if 3 <= column <= 4 else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip(), flush=True)


main()
