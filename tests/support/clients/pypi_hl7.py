"""Delivers messages with the client class of PyPI hl7: PORT FILE, a JSON string a line, each answer likewise."""

import json
import sys

import hl7
from hl7.client import MLLPClient

port, path = int(sys.argv[1]), sys.argv[2]
with open(path, encoding="utf-8") as lines, MLLPClient("127.0.0.1", port) as client:
    client.socket.settimeout(30)
    for line in lines:
        # As its users do: parsed, and sent as a message object.
        answer = client.send_message(hl7.parse(json.loads(line)))
        assert answer.startswith(b"\x0b") and answer.endswith(b"\x1c\r"), answer
        print(json.dumps(answer[1:-2].decode("utf-8")))
