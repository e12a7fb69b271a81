"""Delivers over TLS with Python's ssl: PORT CA VERSION MESSAGES [CERTIFICATE KEY]. MESSAGES holds JSON strings, one a line;
prints each answer likewise. Ends with 1 and the error when there is none."""

import json
import socket
import ssl
import sys

port, ca, version, messages, *own = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
if own:
    context.load_cert_chain(*own)


def frame(read):
    while True:
        end = read["bytes"].find(b"\x1c\r")
        if end >= 0:
            body, read["bytes"] = read["bytes"][1:end], read["bytes"][end + 2:]
            return body
        chunk = stream.recv(65536)
        if not chunk:
            raise ConnectionError("closed")
        read["bytes"] += chunk


try:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as stream:
            read = {"bytes": b""}
            for line in open(messages, encoding="utf-8"):
                stream.sendall(b"\x0b" + json.loads(line).encode() + b"\x1c\r")
                print(json.dumps(frame(read).decode()))
except (OSError, ssl.SSLError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
