#!/usr/bin/env python3
"""A stub of a shop behind a gate, to try the examples with. Standard library only.

It answers every request with what it received, as JSON, and remembers it in `Shop.seen`. Special paths:

    /socket        upgrades the connection, and sends back what it gets
    /check-out     ends the pass of the request at Usher, as a shop does after a purchase
    /status/NNN    answers NNN
    /broken        reads the request, and closes the connection without an answer
"""

import argparse
import hashlib
import http.client
import json
import re
from dataclasses import dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Seen:
    """A request as the shop received it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    length: int
    sha256: str

    def header(self, name: str) -> list[str]:
        """All values of a header, under any spelling that CGI and WSGI turn into the same variable."""
        wanted = name.lower().replace("_", "-")
        return [value for key, value in self.headers if key.lower().replace("_", "-") == wanted]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120
    server: "Shop"

    def answer(self) -> None:
        body = self.body()
        seen = Seen(self.command, self.path, self.headers.items(), len(body), hashlib.sha256(body).hexdigest())
        self.server.seen.append(seen)
        path = urlsplit(self.path).path
        if path == "/broken":
            self.close_connection = True
            return
        if path == "/socket" and self.headers.get("Upgrade"):
            self.echo(self.headers["Upgrade"])
            return
        if path == "/check-out":
            status = 200 if self.end_pass() else 502
        elif match := re.fullmatch(r"/status/(\d{3})", path):
            status = int(match[1])
        else:
            status = 200
        text = json.dumps({"shop": vars(seen)}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_PROPFIND = answer

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def echo(self, protocol: str) -> None:
        self.close_connection = True
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", protocol)
        self.end_headers()
        while line := self.rfile.readline():
            self.wfile.write(line)

    def end_pass(self) -> bool:
        """Ends the pass of this request at Usher: the next request with it is refused."""
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        by_cookie = [cookie.value for name, cookie in cookies.items() if name.startswith("usher_pass")]
        passes = self.headers.get_all("Usher-Pass", by_cookie)
        if not passes:
            return False
        usher = http.client.HTTPConnection(self.server.usher, timeout=5)
        path = f"/api/v1/performances/{self.server.performance}/queue"
        try:
            usher.request("DELETE", path, headers={"Usher-Pass": passes[0]})
            return usher.getresponse().status == 204
        finally:
            usher.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Shop(ThreadingHTTPServer):
    """Serves on 127.0.0.1; `usher` is Usher's host and port."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, usher: str, performance: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.usher = usher
        self.performance = performance
        self.seen: list[Seen] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A proxy that closes its connection is no error."""


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Serves the stub of a shop.")
    arguments.add_argument("--port", type=int, default=3000)
    arguments.add_argument("--usher", default="127.0.0.1:8080", help="Usher's host and port")
    arguments.add_argument("--performance", required=True, help="the performance whose passes the check-out ends")
    chosen = arguments.parse_args()
    print(f"the shop is at http://127.0.0.1:{chosen.port}")
    Shop(chosen.port, chosen.usher, chosen.performance).serve_forever()
