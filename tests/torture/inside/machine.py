"""What a machine under user-mode Linux does, as FOLDER/orders.json says: `load` serves and sends until the power goes,
`check` serves until nothing waits and runs the checker, `record` serves and sends a number of messages while every write
to the disk is logged with a mark where a message was acknowledged (see `blocks`). It speaks to the host by lines on the console: what it has
printed survives the cut.

SENT and ACK are followed by a line of the ledger (see `checker`); UP says that the server listens, VERDICT what the
checker said, and WORDS why.
"""

import base64
import fcntl
import hashlib
import json
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time

DISK, LOG = "/dev/ubda", "/mnt/server.log"
console = threading.Lock()


def say(*words):
    with console:
        print(*words, flush=True)


def run(*words, **options):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


class Limit:
    """An end for senders whose host has forgotten them."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def enough(self):
        return time.monotonic() > self.end

    def mark(self, text):
        pass


class Marker:
    """Puts marks into the log of a disk (dm-log-writes), which stand among its writes, until so many are set."""

    TARGET_MSG = 3 << 30 | 312 << 16 | 0xFD << 8 | 14

    def __init__(self, name, most):
        self.name, self.left = name.encode(), most
        self.control = os.open("/dev/mapper/control", os.O_RDWR)
        self.lock = threading.Lock()

    def enough(self):
        return self.left <= 0

    def mark(self, text):
        message = struct.pack("=Q", 0) + b"mark %s\0" % text.encode()
        head = struct.pack("=3I", 4, 0, 0) + struct.pack("=2I", 312 + len(message), 312) + bytes(20) + bytes(8)
        request = bytearray((head + self.name.ljust(128, b"\0")).ljust(312, b"\0") + message)
        with self.lock:
            fcntl.ioctl(self.control, Marker.TARGET_MSG, request)
            self.left -= 1


def logged_disk():
    """The disk with a log of its writes on the second one."""
    modules = "/usr/lib/uml/modules/%s/kernel/drivers/md" % os.uname().release
    for module in ("dm-mod", "dm-log-writes"):
        run("insmod", "%s/%s.ko" % (modules, module))
    sectors = run("blockdev", "--getsz", DISK, check=True).stdout.strip()
    run("dmsetup", "create", "logged", "--table", "0 %s log-writes %s /dev/ubdb" % (sectors, DISK), check=True)
    run("dmsetup", "mknodes")
    return "/dev/mapper/logged"


def mount(device, format_it, theirs):
    if format_it:
        run("mkfs.ext4", "-q", "-F", "-b", "4096", device, check=True)
    ran = run("mount", "-t", "ext4", device, "/mnt")
    if ran.returncode:
        say("WORDS", json.dumps("could not mount the disk: " + ran.stdout))
        sys.exit(1)
    os.makedirs("/mnt/rows", exist_ok=True)
    if format_it and theirs:
        # A database that was there before the server: SQLite's ordinary mode, with a journal that is removed.
        database = sqlite3.connect("/mnt/rows/rows.sqlite")
        database.execute("CREATE TABLE theirs (a)")
        database.close()


def pdf(name):
    out, offsets = b"%PDF-1.4\n", []
    objects = (
        "<< /Type /Catalog /Pages 2 0 R /Name (%s) >>" % name,
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] >>",
    )
    for number, text in enumerate(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number + 1, text.encode())
    table = len(out)
    out += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % table


def message(channel, sender, n):
    """The same for the same numbers: what was not answered before a cut is sent again after it."""
    control, patient = "%sS%dN%d" % (channel[0].upper(), sender, n), "P%d" % ((sender * 3 + n) % 7)
    kind = "ORU^R01^ORU_R01" if channel == "oru" else "ADT^A01^ADT_A01"
    text = "MSH|^~\\&|LAB|WARD|SERVER|HOSPITAL|20260102030405||%s|%s|P|2.5\r" % (kind, control)
    text += "EVN||20260102030405\rPID|1||%s^^^HOSP^MR||Musterfrau^Erika\r" % patient
    document = None
    if channel == "oru":
        document = pdf(control)
        data = base64.b64encode(document).decode()
        text += "OBR|1||A1|REPORT\rOBX|1|ED|REPORT||^application^pdf^Base64^%s||||||F\r" % data
    elif n % 10 == 9:
        # Of several pages: a part of it may be on disk.
        text += "NTE|1||%s\r" % ("%s " % control * (3000 + 900 * (n % 40)))
    body = text.encode()
    return body, {
        "channel": channel,
        "control": control,
        "patients": [patient],
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "document_bytes": document and len(document),
        "document_sha256": document and hashlib.sha256(document).hexdigest(),
        "sender": sender,
        "n": n,
        "connection": None,
        "position": 0,
        "attempts": 0,
        "sent_us": None,
        "acknowledged_us": None,
        "code": None,
        "id": None,
        "places": None,
    }


def answer_on(link):
    heard = b""
    while not heard.endswith(b"\x1c\r"):
        more = link.recv(4096)
        if not more:
            raise ConnectionError("closed")
        heard += more
    segments = heard[1:-2].split(b"\r")
    header, code = segments[0].split(b"|"), segments[1].split(b"|")
    return code[1].decode(), code[2].decode(), header[9].decode()


def send(channel, port, sender, before, told):
    """One message after another until the power goes, or until `told`, who hears of each acknowledgment, has enough.
    `before`: what was under way at the last cut, and the number to go on with."""
    link, number, position = None, 0, 0
    n, pending = before.get("n", 0), before.get("pending")
    while not told.enough():
        body, entry = message(channel, sender, n)
        if pending is not None:
            entry["sent_us"], entry["attempts"] = pending["sent_us"], pending["attempts"]
            pending = None
        while True:
            try:
                if link is None:
                    link = socket.create_connection(("127.0.0.1", port), timeout=20)
                    number, position = time.time_ns(), 0
                entry["sent_us"] = entry["sent_us"] or time.time_ns() // 1000
                entry["attempts"] += 1
                entry["connection"], entry["position"] = number, position
                say("SENT", json.dumps(entry))
                link.sendall(b"\x0b" + body + b"\x1c\r")
                position += 1
                entry["code"], control, entry["id"] = answer_on(link)
                entry["acknowledged_us"] = time.time_ns() // 1000
                told.mark("%s/%s" % (channel, entry["control"]))
                say("ACK", json.dumps(entry))
                if control != entry["control"]:
                    say("WORDS", json.dumps("%s got the answer to %s" % (entry["control"], control)))
                break
            except OSError:
                link = None
                time.sleep(0.05)
        n += 1


def serve(orders):
    log = open(LOG, "ab")
    words = [orders["program"], "run", "--config", orders["config"]]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for port in orders["ports"].values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                if server.poll() is not None:
                    with open(LOG, encoding="utf-8", errors="replace") as lines:
                        say("WORDS", json.dumps("the server has ended: " + lines.read()[-2000:]))
                    sys.exit(1)
                time.sleep(0.02)
    say("UP")
    return server


def load(orders, told):
    threads = []
    for channel, senders in orders["senders"].items():
        for sender in range(senders):
            before = orders["before"].get("%s/%d" % (channel, sender), {})
            words = (channel, orders["ports"][channel], sender, before, told)
            threads.append(threading.Thread(target=send, args=words, daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def listed(orders, *words):
    """What a command of the server's lists; None while it cannot."""
    ran = subprocess.run(
        [orders["program"], *words, "--json", "--config", orders["config"]], stdout=subprocess.PIPE, text=True
    )
    return ran.stdout if ran.returncode == 0 else None


def verdict(orders):
    """Serves until nothing waits; what the checker says then, and why."""
    server = serve(orders)
    end = time.monotonic() + orders["patience"]
    while listed(orders, "queue", "list") != "" and time.monotonic() < end:
        time.sleep(0.1)
    for name, words in (("queue", ("queue", "list")), ("failed", ("failed", "list"))):
        with open("/run/%s.jsonl" % name, "w") as file:
            file.write(listed(orders, *words) or "")
    ran = subprocess.run(
        [*orders["checker"], "--queue", "/run/queue.jsonl", "--failed", "/run/failed.jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    server.terminate()
    server.wait()
    with open(LOG, encoding="utf-8", errors="replace") as lines:
        return ran.stdout.strip(), ran.stderr + lines.read()[-6000:]


def check(orders):
    said, words = verdict(orders)
    say("WORDS", json.dumps(words))
    say("VERDICT", said)
    run("umount", "/mnt")


def record(orders):
    mount(logged_disk(), True, orders["theirs"])
    marker = Marker("logged", orders["messages"])
    marker.mark("begun")
    serve(orders)
    load(orders, marker)
    # What is on its way to the disk by itself gets there.
    time.sleep(2)
    say("RECORDED")


def main():
    with open(os.path.join(sys.argv[1], "orders.json"), encoding="utf-8") as file:
        orders = json.load(file)
    say("STARTED")
    if orders["what"] == "nothing":
        return None
    if orders["what"] == "record":
        return record(orders)
    mount(DISK, orders["format"], orders["theirs"])
    if orders["what"] == "check":
        return check(orders)
    serve(orders)
    load(orders, Limit(300))


if __name__ == "__main__":
    main()
