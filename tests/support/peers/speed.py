"""What others do of the work, with the MLLP server of PyPI hl7 and PyMuPDF: PORT WORK FOLDER FLUSH.

WORK is `acknowledged`, `archived` or `documents` (message archived, PDF stamped, archived and dropped); with FLUSH `yes`
every file is flushed before the answer.
"""

import asyncio
import base64
import itertools
import os
import sys

import hl7.mllp
import pymupdf

port, work, folder, flush = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "yes"
numbers = itertools.count()


def write(name, content):
    with open(os.path.join(folder, name), "xb") as out:
        out.write(content)
        if flush:
            out.flush()
            os.fsync(out.fileno())


def stamped(content, lines):
    with pymupdf.open(stream=content, filetype="pdf") as document:
        document[0].insert_text((20, 20), lines, fontsize=7, color=(1, 0, 0))
        return document.tobytes()


def carry_out(message):
    number = next(numbers)
    if work != "acknowledged":
        write(f"{number}.hl7", str(message).encode())
    if work == "documents":
        content = base64.b64decode(str(message.segment("OBX")[5][0][4]))
        patient = message.segment("PID")
        content = stamped(content, f"patient_id: {patient[3][0][0]}\npatient_name: {patient[5][0][0]} {patient[5][0][1]}")
        write(f"{number}.archived.pdf", content)
        write(f"{number}.dropped.pdf", content)


async def receive(reader, writer):
    try:
        while True:
            message = await reader.readmessage()
            carry_out(message)
            writer.writemessage(message.create_ack())
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await hl7.mllp.start_hl7_server(receive, host="127.0.0.1", port=port, encoding="utf-8", limit=64 << 20)
    async with server:
        await server.serve_forever()


asyncio.run(main())
