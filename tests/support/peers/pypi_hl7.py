"""Receives messages with the MLLP server of PyPI hl7: PORT FILE; a line of JSON in FILE for each, then its answer."""

import asyncio
import json
import sys

import hl7.mllp

port, path = int(sys.argv[1]), sys.argv[2]


async def receive(reader, writer):
    try:
        while True:
            message = await reader.readmessage()
            with open(path, "a", encoding="utf-8") as out:
                out.write(json.dumps(str(message)) + "\n")
            writer.writemessage(message.create_ack())
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def main():
    server = await hl7.mllp.start_hl7_server(receive, host="127.0.0.1", port=port, encoding="utf-8")
    async with server:
        await server.serve_forever()


asyncio.run(main())
