#!/usr/bin/env python3
"""Tries the examples in this folder with the real proxies, a real Usher and a stub of a shop. `make gate` runs it.

Prints a table for each proxy, and exits with 1 if one answer is not as docs/OPERATIONS.md says. Uses the files as they
are, but for the lines that they ask to change. Standard library only.
"""

import argparse
import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shop import Seen, Shop

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
# The performance that the examples name.
EXAMPLE = "01890a5d-ac96-774b-bcce-b302099a8057"
# Below the range of outgoing connections, so that none of them takes a port that a restarted server needs.
PORTS = range(25000, 26000)
MEGABYTE = bytes(range(256)) * 4096
# Longest time to an answer while Usher is frozen or dead: the second that the examples wait, and the machine's.
AWAY_MAX_S = 2.5
READY_MAX_S = 30.0
# Longest time until a proxy uses an Usher that came back.
BACK_MAX_S = 10.0

Headers = list[tuple[str, str]]


class Failed(Exception):
    """The matrix cannot run."""


# ---- Requests ---------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """An answer, or status 0 and the reason why there is none."""

    status: int
    headers: http.client.HTTPMessage | None
    body: bytes
    took_s: float

    def header(self, name: str) -> str | None:
        return self.headers.get(name) if self.headers else None

    def __str__(self) -> str:
        return f"{self.status} {self.body[:120]!r} after {self.took_s:.2f} s"


def send(
    port: int, method: str, path: str, headers: Headers = [], body: bytes = b"", chunked: bool = False
) -> Answer:
    """Sends one request on a connection of its own, byte for byte as given."""
    lines = [f"{method} {path} HTTP/1.1", "Host: shop.example", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        pieces = [body[at : at + 65536] for at in range(0, len(body), 65536)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    start = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
            # A proxy may refuse and close before it has read the body.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(head + body)
            response = http.client.HTTPResponse(connection, method=method)
            response.begin()
            text = response.read()
            return Answer(response.status, response.headers, text, time.monotonic() - start)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, None, repr(error).encode(), time.monotonic() - start)


def converse(port: int, path: str, headers: Headers, wanted: bytes, say: bytes = b"") -> bytes:
    """Sends a GET, says something when the head of the answer is there, and reads on until the wanted bytes arrive, for
    5 s at most. Returns what arrived."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    arrived = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, contextlib.suppress(OSError):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: shop.example\r\n{head}\r\n".encode())
        until_s = time.monotonic() + 5
        while wanted not in arrived and time.monotonic() < until_s:
            more = connection.recv(65536)
            if not more:
                break
            arrived += more
            if say and b"\r\n\r\n" in arrived:
                connection.sendall(say)
                say = b""
    return arrived


def until(what: str, timeout_s: float, done: Callable[[], bool]) -> float:
    """Waits for a condition, and returns how long it took."""
    start = time.monotonic()
    while not done():
        if time.monotonic() - start > timeout_s:
            raise Failed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - start


# ---- Processes --------------------------------------------------------------------------------------------------


def free_ports() -> Iterator[int]:
    for port in PORTS:
        with socket.socket() as probe:
            # As servers do: a port with closed connections is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                probe.close()
                yield port
    raise Failed(f"no free port from {PORTS.start} to {PORTS.stop - 1}")


def die_with_parent() -> None:
    """Runs in the child: the kernel kills it if this process is killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A process that this one starts and ends. Its output is in a file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                preexec_fn=die_with_parent,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self.child
        self.child.send_signal(number)

    def kill(self) -> None:
        if self.child:
            self.child.kill()
            self.child.wait()
            self.child = None

    def wait_ready(self, done: Callable[[], bool]) -> None:
        def ready() -> bool:
            if self.child and self.child.poll() is not None:
                raise Failed(f"{self.name} ended:\n{self.tail()}")
            return done()

        try:
            until(f"{self.name} is ready", READY_MAX_S, ready)
        except Failed as failure:
            raise Failed(f"{failure}\n{self.tail()}") from None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Usher(Process):
    """A real Usher with the demo's sale, whose state outlives a kill."""

    def __init__(self, program: str, folder: Path, port: int, metrics_port: int) -> None:
        super().__init__("usher", folder)
        self.program = program
        self.port = port
        self.settings = {
            "USHER__HTTP__BIND": f"127.0.0.1:{port}",
            "USHER__METRICS__BIND": f"127.0.0.1:{metrics_port}",
            "USHER__DATA__DIR": str(folder),
        }
        self.operator: Headers = []
        self.performance = ""

    def up(self) -> None:
        self.start([self.program, "serve", "--demo"], self.settings)
        self.wait_ready(lambda: send(self.port, "GET", "/readyz").status == 200)

    def call(self, method: str, path: str, headers: Headers = [], json_body: object = None) -> dict:
        body = b"" if json_body is None else json.dumps(json_body).encode()
        headers = headers + [("Content-Type", "application/json")] if body else headers
        answer = send(self.port, method, "/api/v1" + path, headers, body)
        if not 200 <= answer.status < 300:
            raise Failed(f"Usher answers {method} {path} with {answer}")
        return json.loads(answer.body) if answer.body else {}

    def prepare(self) -> None:
        """Finds the demo's sale, and logs its operator in."""
        shown = re.search(r"operator, shown once (\S+) (\S+)", self.log.read_text())
        if not shown:
            raise Failed(f"Usher printed no operator:\n{self.tail()}")
        login = self.call("POST", "/auth/login", [], {"email": shown[1], "password": shown[2]})
        self.operator = [("Authorization", f"Bearer {login['access_token']}")]
        sale = self.call("GET", "/concerts/00000000-0000-7000-8000-000000000001/performances")
        self.performance = sale["items"][0]["id"]

    def buyers(self, count: int) -> list[str]:
        command = [self.program, "token", "mint", "--count", str(count)]
        minted = subprocess.run(command, env=os.environ | self.settings, capture_output=True, text=True, check=True)
        return minted.stdout.split()


@dataclass
class Pass:
    """A buyer's pass, and how a browser sends it."""

    place: str
    token: str
    cookie: str

    def by(self, way: str) -> Headers:
        return {"header": [("Usher-Pass", self.token)], "cookie": [("Cookie", f"lang=ko; {self.cookie}; x=1")]}[way]


class Buyers:
    """Joins the line with one new buyer after another."""

    def __init__(self, usher: Usher, count: int) -> None:
        self.usher = usher
        self.tokens = iter(usher.buyers(count))

    def admitted(self, port: int | None = None) -> Pass:
        """Joins, by a proxy's port if given, and follows the place until it has a pass."""
        port = port or self.usher.port
        path = f"/api/v1/performances/{self.usher.performance}/queue"
        answer = send(port, "POST", path, [("Authorization", f"Bearer {next(self.tokens)}")])
        until_s = time.monotonic() + READY_MAX_S
        while True:
            if answer.status not in (200, 201):
                raise Failed(f"joining by port {port}: {answer}")
            place = json.loads(answer.body)
            if place["pass"]:
                cookie = (answer.header("Set-Cookie") or "").split(";")[0]
                if not cookie.startswith("usher_pass"):
                    raise Failed(f"the answer with a pass sets the cookie {cookie!r}")
                return Pass(place["place"], place["pass"]["token"], cookie)
            if time.monotonic() > until_s:
                raise Failed(f"not admitted: {answer.body!r}")
            time.sleep(place["poll_after_ms"] / 1000)
            answer = send(port, "GET", path, [("Usher-Place", place["place"])])

    def ended(self) -> Pass:
        """A pass that its owner gave back."""
        one = self.admitted()
        self.usher.call("DELETE", f"/performances/{self.usher.performance}/queue", [("Usher-Place", one.place)])
        return one

    def expired(self) -> Pass:
        """A pass that ran out."""
        policy = f"/operator/performances/{self.usher.performance}/admission"
        before = self.usher.call("GET", policy, self.usher.operator)["pass_ttl_s"]
        self.usher.call("PATCH", policy, self.usher.operator, {"pass_ttl_s": 1})
        one = self.admitted()
        self.usher.call("PATCH", policy, self.usher.operator, {"pass_ttl_s": before})
        gate = f"/api/v1/performances/{self.usher.performance}/gate"
        until("a pass of one second expires", 10, lambda: send(self.usher.port, "GET", gate, one.by("header")).status == 401)
        return one


# ---- The examples -----------------------------------------------------------------------------------------------


@dataclass
class Setup:
    """What an example is changed to."""

    port: int
    usher: int
    shop: int
    performance: str
    open: bool


def changed(file: Path, changes: list[tuple[str, str, int]]) -> str:
    """The text of an example with its lines changed. Each must be there as often as expected."""
    text = file.read_text()
    for old, new, times in changes:
        if text.count(old) != times:
            raise Failed(f"{file.relative_to(ROOT)} has {old!r} {text.count(old)} times, not {times}")
        text = text.replace(old, new)
    return text


class Nginx(Process):
    def up(self, program: str, folder: Path, setup: Setup) -> None:
        example = changed(
            HERE / "nginx/gate.conf",
            [
                ("listen 8000;", f"listen 127.0.0.1:{setup.port};", 1),
                ("server 127.0.0.1:8080 ", f"server 127.0.0.1:{setup.usher} ", 1),
                ("server 127.0.0.1:3000 ", f"server 127.0.0.1:{setup.shop} ", 1),
                (EXAMPLE, setup.performance, 1),
                ("default @closed;", "default @open;" if setup.open else "default @closed;", 1),
            ],
        )
        (folder / "gate.conf").write_text(example)
        kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        paths = "".join(f"{kind}_temp_path {folder}/nginx-{kind};\n" for kind in kinds)
        (folder / "nginx.conf").write_text(
            f"pid {folder}/nginx.pid; daemon off; master_process off;\n"
            f"events {{}}\nhttp {{ access_log {folder}/nginx-access.log;\n{paths}include {folder}/gate.conf; }}\n"
        )
        self.start([program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")], {})


class Envoy(Process):
    def up(self, program: str, folder: Path, setup: Setup) -> None:
        listen = "address: 0.0.0.0, port_value: 8000"
        example = changed(
            HERE / "envoy/envoy.yaml",
            [
                (listen, f"address: 127.0.0.1, port_value: {setup.port}", 1),
                ("port_value: 8080", f"port_value: {setup.usher}", 1),
                ("port_value: 3000", f"port_value: {setup.shop}", 1),
                (EXAMPLE, setup.performance, 3),
                ("failure_mode_allow: false", f"failure_mode_allow: {str(setup.open).lower()}", 1),
            ],
        )
        (folder / "envoy.yaml").write_text(example)
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"]
        self.start([program, "-c", str(folder / "envoy.yaml"), *options], {})


class Caddy(Process):
    def up(self, program: str, folder: Path, setup: Setup) -> None:
        environment = {
            "SHOP_SITE": f"http://:{setup.port}",
            "SHOP_ADDRESS": f"127.0.0.1:{setup.shop}",
            "USHER_ADDRESS": f"127.0.0.1:{setup.usher}",
            "USHER_PERFORMANCE": setup.performance,
            "USHER_WAITING_ROOM": f"/en/performances/{setup.performance}/line",
            "USHER_AWAY": "open" if setup.open else "closed",
            # Not the example's: Caddy's own files and its administration.
            "CADDY_ADMIN": f"unix/{folder}/caddy.sock",
            "XDG_CONFIG_HOME": str(folder),
            "XDG_DATA_HOME": str(folder),
            "HOME": str(folder),
        }
        self.start([program, "run", "--config", str(HERE / "caddy/Caddyfile")], environment)


PROXIES = {"nginx": Nginx, "envoy": Envoy, "caddy": Caddy}


def programs(names: list[str]) -> dict[str, str]:
    """Finds all programs, or says how to get those that are missing."""
    wheels = ROOT / "target/proxies"
    places = {
        "usher": [os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")) + "/release/usher"],
        "nginx": [shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or ""],
        "envoy": [str(wheels / "envoy/_bin/envoy"), shutil.which("envoy") or ""],
        "caddy": [str(wheels / "bin/caddy"), shutil.which("caddy") or ""],
    }
    how = {
        "usher": "cargo build --locked --release --package usher-app --bin usher",
        "nginx": "apt-get install nginx-light",
        "envoy": "make proxies",
        "caddy": "make proxies",
    }
    found, missing = {}, []
    for name in ["usher", *names]:
        wanted = os.environ.get(name.upper())
        candidates = [wanted] if wanted else places[name]
        path = next((path for path in candidates if path and os.access(path, os.X_OK)), None)
        if path:
            found[name] = path
        else:
            missing.append(f"{name} is missing ({wanted or 'not found'}): `{how[name]}`, or name it in {name.upper()}")
    if missing:
        raise Failed("\n".join(missing))
    return found


# ---- The checks -------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was checked, and what was not as it should be."""

    proxy: str
    mode: str = ""
    checks: int = 0
    deviations: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str, saw: object = "") -> bool:
        self.checks += 1
        if not holds:
            self.deviations.append(f"{self.proxy}, {self.mode}: {what}; saw {saw}")
        return holds

    @contextlib.contextmanager
    def line(self, what: str) -> Iterator[None]:
        """Prints a line with the outcome of the checks in the block."""
        before = len(self.deviations)
        start = time.monotonic()
        yield
        mark = "ok  " if len(self.deviations) == before else "FAIL"
        print(f"  {mark} {what} ({time.monotonic() - start:.1f} s)", flush=True)


class Gate:
    """One proxy with one setting, in front of the shop."""

    def __init__(self, report: Report, port: int, usher: Usher, shop: Shop, buyers: Buyers) -> None:
        self.report, self.port, self.usher, self.shop, self.buyers = report, port, usher, shop, buyers
        self.live = buyers.admitted()
        self.bad = Pass("", self.live.token[:-4] + ("AAAA" if self.live.token[-4:] != "AAAA" else "BBBB"), "")
        self.bad.cookie = f"{self.live.cookie.split('=')[0]}={self.bad.token}"
        self.waiting_room = f"/en/performances/{usher.performance}/line"
        self.gate = f"/api/v1/performances/{usher.performance}/gate"

    def send(self, method: str, path: str, headers: Headers = [], body: bytes = b"", chunked: bool = False):
        """Sends a request by the proxy. Returns the answer, and what the shop received."""
        self.shop.seen.clear()
        answer = send(self.port, method, path, headers, body, chunked)
        return answer, list(self.shop.seen)

    def refused(self, what: str, answer: Answer, seen: list[Seen], head: bool = False) -> bool:
        """An API call without a live pass: 401 with where to join, and nothing for the shop."""
        report = self.report
        ok = report.check(answer.status == 401 and not seen, f"{what} is refused", (str(answer), seen))
        ok &= report.check(answer.header("Cache-Control") == "no-store", f"{what}: no cache keeps the refusal", answer)
        if not head:
            join = f"/api/v1/performances/{self.usher.performance}/queue"
            with contextlib.suppress(ValueError):
                problem = json.loads(answer.body)
                return ok & report.check(problem.get("join") == join, f"{what} learns where to join", answer)
            return report.check(False, f"{what} gets a problem document", answer)
        return ok

    def passed(self, what: str, answer: Answer, seen: list[Seen], owner: Pass, method: str, body: bytes) -> bool:
        """A call with a live pass reaches the shop once, whole, with the identity that Usher gives."""
        report = self.report
        direct = send(self.usher.port, "GET", self.gate, owner.by("header"))
        identity = [direct.header("Usher-Account"), direct.header("Usher-Pass-Id")]
        ok = report.check(direct.status == 200 and all(identity), "Usher's gate names account and pass", direct)
        ok &= report.check(answer.status == 200 and len(seen) == 1, f"{what} reaches the shop once", (str(answer), seen))
        for one in seen:
            got = [one.header("Usher-Account"), one.header("Usher-Pass-Id")]
            ok &= report.check(one.method == method, f"{what} keeps its method", one.method)
            ok &= report.check(one.sha256 == hashlib.sha256(body).hexdigest(), f"{what} arrives whole", one.length)
            ok &= report.check(got == [[value] for value in identity], f"{what} has Usher's identity only", got)
        return ok

    def matrix(self) -> None:
        """All methods in all states of the pass."""
        ended, expired = self.buyers.ended(), self.buyers.expired()
        states: list[tuple[str, Headers, bool]] = [
            ("no pass", [], False),
            ("pass as header", self.live.by("header"), True),
            ("pass as cookie", self.live.by("cookie"), True),
            ("bad pass as header", self.bad.by("header"), False),
            ("bad pass as cookie", self.bad.by("cookie"), False),
            ("ended pass as header", ended.by("header"), False),
            ("ended pass as cookie", ended.by("cookie"), False),
            ("expired pass as header", expired.by("header"), False),
            ("expired pass as cookie", expired.by("cookie"), False),
        ]
        print(f"  {'':24}" + "".join(f"{method:>9}" for method in METHODS))
        for state, headers, admitted in states:
            cells = []
            for method in METHODS:
                body = b'{"seat": "A-1-1"}' if method in ("POST", "PUT", "PATCH") else b""
                answer, seen = self.send(method, "/cart?seat=A-1-1", headers, body)
                what = f"{method} with {state}" if headers else f"{method} without a pass"
                if admitted:
                    ok = self.passed(what, answer, seen, self.live, method, body)
                    ok &= self.report.check(all(one.path == "/cart?seat=A-1-1" for one in seen), f"{what}: path", seen)
                else:
                    ok = self.refused(what, answer, seen, head=method == "HEAD")
                cells.append(f"{answer.status}{'' if ok else '!'}")
            print(f"  {state:24}" + "".join(f"{cell:>9}" for cell in cells), flush=True)

    def browsers(self) -> None:
        html = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
        path = "/seats?section=A&row=1"
        cases: list[tuple[str, Headers, bool]] = [
            ("a navigation", [("Sec-Fetch-Mode", "navigate"), html], True),
            ("a navigation of an old browser", [html], True),
            ("a navigation with a bad pass", [("Sec-Fetch-Mode", "navigate"), html, *self.bad.by("cookie")], True),
            ("a script's call", [("Sec-Fetch-Mode", "cors"), html], False),
            ("a program's call", [("Accept", "application/json")], False),
        ]
        for what, headers, redirected in cases:
            answer, seen = self.send("GET", path, headers)
            if redirected:
                want = f"{self.waiting_room}?back={path}"
                got = (answer.status, answer.header("Location"))
                self.report.check(got == (302, want) and not seen, f"{what} goes to the waiting room", got)
                self.report.check(answer.header("Cache-Control") == "no-store", f"{what}: no cache keeps it", answer)
            else:
                self.refused(what, answer, seen)
        answer, seen = self.send("GET", path, [("Sec-Fetch-Mode", "navigate"), html, *self.live.by("cookie")])
        self.passed("a navigation with a pass", answer, seen, self.live, "GET", b"")

    def megabytes(self) -> None:
        for way in ("header", "cookie"):
            for chunked in (False, True):
                what = f"POST of 1 MB {'in chunks' if chunked else 'with a length'}, pass as {way}"
                answer, seen = self.send("POST", "/upload", self.live.by(way), MEGABYTE, chunked)
                self.passed(what, answer, seen, self.live, "POST", MEGABYTE)
        answer, seen = self.send("POST", "/upload", [], MEGABYTE)
        self.refused("POST of 1 MB without a pass", answer, seen)

    FORGED: Headers = [
        ("Usher-Account", "forged"),
        ("Usher-Account", "forged-again"),
        ("usher-pass-id", "forged"),
        ("Usher_Account", "forged"),
        ("usher_account", "forged"),
        ("Usher_Pass_Id", "forged"),
        ("usher-pass_id", "forged"),
        ("usher_pass-id", "forged"),
    ]

    def forgeries(self) -> None:
        answer, seen = self.send("GET", "/", self.FORGED)
        self.refused("a forged identity without a pass", answer, seen)
        for way in ("header", "cookie"):
            answer, seen = self.send("GET", "/", self.FORGED + self.live.by(way))
            self.passed(f"a forged identity, pass as {way}", answer, seen, self.live, "GET", b"")
        # A proxy removes the headers that `Connection` names.
        naming = [("Connection", "Usher-Account, Usher-Pass-Id")]
        answer, seen = self.send("GET", "/", naming + self.live.by("header"))
        self.passed("an identity named in Connection", answer, seen, self.live, "GET", b"")

    def shops_own(self) -> None:
        """Refusals and failures of the shop reach the client as they are."""
        for status in (401, 403, 404, 500, 502, 503):
            answer, seen = self.send("POST", f"/status/{status}", self.live.by("header"), b"x")
            ok = answer.status == status and len(seen) == 1 and b'"shop"' in answer.body
            self.report.check(ok, f"the shop's own {status} reaches the client", (str(answer), len(seen)))
        answer, seen = self.send("POST", "/broken", self.live.by("header"), b"x")
        ok = answer.status in (502, 503) and len(seen) == 1
        self.report.check(ok, "a POST that the shop breaks off is sent once", (str(answer), len(seen)))

    def by_paths(self) -> None:
        """Paths that a proxy and Usher may read in different ways never lead to the shop without a pass."""
        for path in [
            "/api/v1/../../cart", "/api/v1/%2e%2e/%2e%2e/cart", "/en/..%2fcart", "//cart", "/./cart", "/cart/../api/v1/",
            "/%61pi/v1/cart", "/api/v1;/cart", "/api/v1cart", "/english", "/.usher-gate", "/..;/cart", "*",
            "http://shop.example/cart", "/cart%00", "/cart#/api/v1/",
        ]:  # fmt: skip
            answer, seen = self.send("GET", path)
            self.report.check(not seen, f"GET {path} without a pass does not reach the shop", (str(answer), seen))

    def odd(self) -> None:
        """Requests that Usher may not be able to read never lead to the shop without a pass."""
        cookie = lambda length: ("Cookie", "a=" + "x" * length)  # noqa: E731
        cases: list[tuple[str, str, str, Headers]] = [
            *((f"a cookie of {n} KB", "GET", "/", [cookie(n * 1000)]) for n in (7, 12, 20, 23, 26, 31, 34, 40, 70)),
            *((f"{n} cookies of 7 KB", "GET", "/", [cookie(7000)] * n) for n in (2, 3, 4, 5)),
            *((f"{n} cookies of 8 KB and a pass", "GET", "/", [("Usher-Pass", "x" * 7000)] + [cookie(8000)] * n) for n in (2, 3, 4)),
            *((f"a pass of {n} KB", "GET", "/", [("Usher-Pass", "x" * n * 1000)]) for n in (7, 20, 31, 40)),
            *((f"a path of {n} KB", "GET", "/" + "x" * n * 1000, []) for n in (7, 20, 23, 31, 40)),
            ("a path and a cookie", "GET", "/" + "x" * 7000, [cookie(7000), cookie(7000)]),
            ("100 headers", "GET", "/", [(f"X-{n}", "x") for n in range(100)]),
            ("95 cookies", "GET", "/", [cookie(9)] * 95),
            ("a pass that is no text", "GET", "/", [("Usher-Pass", "\xff\xfe")]),
            ("a cookie that is no text", "GET", "/", [("Cookie", "usher_pass=\xff\xfe")]),
            ("an empty pass", "GET", "/", [("Usher-Pass", "")]),
            ("two passes", "GET", "/", [("Usher-Pass", "a"), ("Usher-Pass", "b")]),
            ("a tab in the pass", "GET", "/", [("Usher-Pass", "a\tb")]),
            ("an unknown method", "PROPFIND", "/", []),
            ("an unheard-of method", "USHER", "/", []),
            ("a path that is no text", "GET", "/\xff\xfe", []),
            ("an Expect header", "POST", "/", [("Expect", "100-continue")]),
            ("an Upgrade header", "GET", "/", [("Connection", "Upgrade"), ("Upgrade", "websocket")]),
        ]  # fmt: skip
        for what, method, path, headers in cases:
            answer, seen = self.send(method, path, headers)
            ok = not seen and answer.status not in (200, 500, 502, 503, 504)
            self.report.check(ok, f"{what}, without a pass, is refused", (str(answer), len(seen)))

    def usher_itself(self) -> None:
        """The waiting room's calls need no pass, and its cookie admits to the shop."""
        answer, seen = self.send("GET", f"/api/v1/performances/{self.usher.performance}")
        ok = answer.status == 200 and not seen and self.usher.performance.encode() in answer.body
        self.report.check(ok, "Usher's API can be called without a pass", answer)
        one = self.buyers.admitted(self.port)
        answer, seen = self.send("GET", "/", one.by("cookie"))
        self.passed("a pass that was joined for by the proxy", answer, seen, one, "GET", b"")

    def connections(self) -> None:
        """WebSockets reach the shop, and a stream of the waiting room arrives as it comes."""
        upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        got = converse(self.port, "/socket", upgrade + self.live.by("cookie"), b"hello\n", b"hello\n")
        self.report.check(got.startswith(b"HTTP/1.1 101") and got.endswith(b"hello\n"), "a WebSocket is open", got)
        self.shop.seen.clear()
        got = converse(self.port, "/socket", upgrade, b'"join"')
        self.report.check(b" 401 " in got and not self.shop.seen, "a WebSocket without a pass is refused", got)
        got = converse(self.port, self.stream(), [], b"event: place")
        self.report.check(b" 200 " in got and b"event: place" in got, "the place's first event arrives", got)

    def stream(self) -> str:
        """The address of the live place's events, as EventSource asks for them."""
        return f"/api/v1/performances/{self.usher.performance}/queue/stream?place={self.live.place}"

    def no_secrets_in_logs(self, folder: Path) -> None:
        """Whoever has a place or a pass can use it."""
        for log in folder.glob("*.log"):
            text = log.read_text(errors="replace")
            for what, secret in [("place", self.live.place), ("pass", self.live.token)]:
                line = next((line for line in text.splitlines() if secret in line), "")
                self.report.check(not line, f"{log.name} has no {what}", line[:300])

    def check_out(self) -> None:
        for way in ("header", "cookie"):
            one = self.buyers.admitted()
            answer, seen = self.send("GET", "/", one.by(way))
            self.passed(f"before the check-out, pass as {way}", answer, seen, one, "GET", b"")
            answer, seen = self.send("POST", "/check-out", one.by(way), b"{}")
            self.report.check(answer.status == 200, f"the check-out ends the pass, sent as {way}", answer)
            for method in ("GET", "POST"):
                answer, seen = self.send(method, "/", one.by(way))
                self.refused(f"{method} after the check-out, pass as {way}", answer, seen)
        answer, seen = self.send("GET", "/", self.live.by("header"))
        self.passed("another's pass after the check-out", answer, seen, self.live, "GET", b"")

    def away(self, how: str, is_open: bool) -> None:
        """Usher gives no answer: in bounded time, everyone is refused, or admitted without an identity."""
        cases: list[tuple[str, str, Headers, bytes]] = [
            ("GET without a pass", "GET", [], b""),
            ("GET with a pass", "GET", self.live.by("header"), b""),
            ("a navigation", "GET", [("Sec-Fetch-Mode", "navigate"), ("Accept", "text/html")], b""),
            ("a forged identity", "GET", self.FORGED, b""),
            ("POST of 1 MB", "POST", self.live.by("cookie"), MEGABYTE),
            ("DELETE without a pass", "DELETE", [], b""),
        ]
        worst = 0.0
        for what, method, headers, body in cases:
            answer, seen = self.send(method, "/cart", headers, body)
            worst = max(worst, answer.took_s)
            what = f"{what} while Usher is {how}"
            self.report.check(answer.took_s < AWAY_MAX_S, f"{what} is answered in {AWAY_MAX_S} s", answer)
            if is_open:
                ok = answer.status == 200 and len(seen) == 1
                self.report.check(ok, f"{what} reaches the shop once", (str(answer), len(seen)))
                for one in seen:
                    identity = one.header("Usher-Account") + one.header("Usher-Pass-Id")
                    whole = one.sha256 == hashlib.sha256(body).hexdigest() and one.method == method
                    self.report.check(whole, f"{what} arrives whole", (one.method, one.length))
                    self.report.check(not identity, f"{what} has no identity", one.headers)
            else:
                self.report.check(answer.status == 503 and not seen, f"{what} is refused", (str(answer), len(seen)))
                ok = bool(answer.header("Retry-After")) and answer.header("Cache-Control") == "no-store"
                self.report.check(ok, f"{what}: the refusal says when to retry", answer.headers and answer.headers.items())
        if how == "dead":
            # An error that a proxy may log.
            answer, _ = self.send("GET", self.stream(), [("Usher-Place", self.live.place)])
            self.report.check(answer.status in (502, 503, 504), "the waiting room is away with Usher", answer)
        print(f"       Usher {how}: slowest answer after {worst:.2f} s", flush=True)

    def back(self, how: str) -> None:
        """Usher answers again: so does the gate, soon and for the same pass."""
        statuses = lambda: [self.send("GET", "/", headers)[0].status for headers in (self.live.by("header"), [])]  # noqa: E731
        try:
            took = until("", BACK_MAX_S, lambda: statuses() == [200, 401])
            print(f"       back {took:.2f} s after Usher was {how}", flush=True)
            self.report.check(True, "")
        except Failed:
            self.report.check(False, f"the gate works {BACK_MAX_S:.0f} s after Usher was {how}", statuses())
        answer, seen = self.send("GET", "/", self.live.by("header"))
        self.passed(f"a pass after Usher was {how}", answer, seen, self.live, "GET", b"")

    def without_usher(self, is_open: bool) -> None:
        with self.report.line(f"Usher frozen: {'everyone is admitted' if is_open else 'everyone gets 503'}"):
            self.usher.signal(signal.SIGSTOP)
            try:
                self.away("frozen", is_open)
            finally:
                self.usher.signal(signal.SIGCONT)
            self.back("frozen")
        with self.report.line(f"Usher dead: {'everyone is admitted' if is_open else 'everyone gets 503'}"):
            self.usher.kill()
            try:
                self.away("dead", is_open)
            finally:
                self.usher.up()
            self.back("dead")


def run(name: str, program: str, folder: Path, ports: Iterator[int], usher: Usher, shop: Shop, buyers: Buyers) -> Report:
    report = Report(name)
    for is_open in (False, True):
        report.mode = "fail open" if is_open else "fail closed"
        setup = Setup(next(ports), usher.port, shop.server_address[1], usher.performance, is_open)
        proxy = PROXIES[name](f"{name}-{'open' if is_open else 'closed'}", folder)
        print(f"{name}, {report.mode}", flush=True)
        try:
            proxy.up(program, folder, setup)
            proxy.wait_ready(lambda: send(setup.port, "GET", "/").status == 401)
            gate = Gate(report, setup.port, usher, shop, buyers)
            gate.matrix()
            for what, part in [
                ("a browser without a pass is redirected, a program gets 401", gate.browsers),
                ("a POST of 1 MB passes whole", gate.megabytes),
                ("the identity cannot be forged", gate.forgeries),
                ("the shop's own answers stay as they are", gate.shops_own),
                ("no path leads around the gate", gate.by_paths),
                ("no odd request leads through the gate", gate.odd),
                ("the waiting room is reached, and its cookie admits", gate.usher_itself),
                ("WebSockets and streams stay open", gate.connections),
                ("the check-out ends the pass", gate.check_out),
            ]:
                with report.line(what):
                    part()
            gate.without_usher(is_open)
            with report.line("no log has a place or a pass"):
                gate.no_secrets_in_logs(folder)
        except Failed as failure:
            report.check(False, "the run ends", failure)
            print(f"  FAIL {failure}", flush=True)
        finally:
            proxy.kill()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Tries the gates of deploy/gate with the real proxies.")
    parser.add_argument("proxies", nargs="*", metavar="PROXY", help=f"of {', '.join(PROXIES)}; all if none is named")
    names = parser.parse_args().proxies or list(PROXIES)
    if unknown := set(names) - set(PROXIES):
        parser.error(f"unknown: {', '.join(unknown)}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))

    found = programs(names)
    for name, path in found.items():
        version = {"nginx": "-v", "caddy": "version"}.get(name, "--version")
        told = subprocess.run([path, version], capture_output=True, text=True, check=True)
        print(f"{name}: {(told.stdout + told.stderr).strip().splitlines()[-1]} ({path})")
    ports = free_ports()
    reports = []
    with tempfile.TemporaryDirectory(prefix="usher-gate-") as scratch:
        folder = Path(scratch)
        usher = Usher(found["usher"], folder, next(ports), next(ports))
        try:
            usher.up()
            usher.prepare()
            shop = Shop(next(ports), f"127.0.0.1:{usher.port}", usher.performance)
            threading.Thread(target=shop.serve_forever, daemon=True).start()
            buyers = Buyers(usher, 200)
            for name in names:
                reports.append(run(name, found[name], folder, ports, usher, shop, buyers))
            shop.shutdown()
            shop.server_close()
        finally:
            usher.kill()
    for report in reports:
        print(f"{report.proxy}: {report.checks} checks, {len(report.deviations)} deviations")
    for deviation in [deviation for report in reports for deviation in report.deviations]:
        print(f"- {deviation}")
    return 1 if any(report.deviations for report in reports) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
