"""Publish one change without a client library: a socket and five lines of the NATS protocol.

`refold up`, then `python examples/any_language/plain_socket.py [nats://127.0.0.1:4222]`
"""

import json
import socket
import sys
from urllib.parse import urlsplit


def main(url: str) -> None:
    """Publish with a header that names the reply subject, and print the outcome."""
    patch = [{"op": "add", "path": "/paid", "value": 17.5}, {"op": "add", "path": "/by", "value": "Zoë"}]
    event = {"patch": patch, "id": "payment-77", "type": "order.paid", "actor": "till-3"}
    body = json.dumps(event, ensure_ascii=False).encode()
    headers = b"NATS/1.0\r\nRefold-Reply: _INBOX.plain-socket\r\n\r\n"
    sizes = f"{len(headers)} {len(headers) + len(body)}".encode()

    server = urlsplit(url)
    with socket.create_connection((server.hostname, server.port), timeout=10) as connection:
        connection.sendall(b'CONNECT {"verbose": false, "headers": true}\r\nSUB _INBOX.plain-socket 1\r\n')
        connection.sendall(b"HPUB state.acme.order-plain-socket %b\r\n%b%b\r\n" % (sizes, headers, body))
        for line in (said := connection.makefile("rb")):
            if line.startswith(b"MSG"):
                print(said.read(int(line.split()[-1])).decode())
                return
            if line.startswith(b"PING"):
                connection.sendall(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                sys.exit(line.decode())


main(*sys.argv[1:] or ["nats://127.0.0.1:4222"])
