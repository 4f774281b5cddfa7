#!/usr/bin/env python3
"""Measures the cost of open streams: many people join one line and follow their places, then some are admitted.

Needs Python 3.11 only. docs/PERFORMANCE.md has the command and the results.
"""

import argparse
import asyncio
import json
import os
import resource
import time
import urllib.parse
import urllib.request


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--tokens", required=True, help="file with an access token on each line, one for each person")
    parser.add_argument("--pid", required=True, type=int, help="process id of the server")
    parser.add_argument("--operator", required=True, help="operator's password, as the demo prints it")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--let-in", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=40, help="length of each measurement of CPU, in seconds")
    return parser.parse_args()


def call(url, method="GET", body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
        return json.load(answer)


def memory_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Crowd:
    """People in one line, and the counts of what their streams sent."""

    def __init__(self, host, port, performance):
        self.host, self.port = host, port
        self.queue = f"/api/v1/performances/{performance}/queue"
        self.places, self.n_open, self.n_events, self.n_beats, self.admitted_at = [], 0, 0, 0, []
        self.writers = []

    async def join(self, tokens):
        """Joins with the remaining tokens, one after the other, over one connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while tokens:
            head = f"Host: {self.host}\r\nAuthorization: Bearer {tokens.pop()}\r\nContent-Length: 0"
            writer.write(f"POST {self.queue} HTTP/1.1\r\n{head}\r\n\r\n".encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(answer.split("content-length: ")[1].split("\r\n")[0])
            self.places.append(json.loads(await reader.readexactly(length))["place"])
        writer.close()

    async def follow(self, place, opening):
        async with opening:
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=4096)
            self.writers.append(writer)
            writer.write(f"GET {self.queue}/stream HTTP/1.1\r\nHost: {self.host}\r\nUsher-Place: {place}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head, head
            self.n_open += 1
        while line := await reader.readline():
            if line.startswith(b"data: "):
                self.n_events += 1
                if b'"state":"admitted"' in line:
                    self.admitted_at.append(time.monotonic())
            elif line.startswith(b": "):
                self.n_beats += 1


async def main():
    args = arguments()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    base, url = f"{args.url}/api/v1", urllib.parse.urlparse(args.url)
    concert = call(f"{base}/concerts")["items"][0]["id"]
    performance = call(f"{base}/concerts/{concert}/performances")["items"][0]["id"]
    credentials = {"email": "operator@usher.example", "password": args.operator}
    operator = {"Authorization": "Bearer " + call(f"{base}/auth/login", "POST", credentials)["access_token"]}
    admission = f"{base}/operator/performances/{performance}/admission"
    call(admission, "PATCH", {"capacity": 0}, operator)
    with open(args.tokens, encoding="ascii") as file:
        tokens = file.read().split()[: args.streams]

    crowd = Crowd(url.hostname, url.port, performance)
    await asyncio.gather(*(crowd.join(tokens) for _ in range(32)))
    await asyncio.sleep(2)
    n, before_kib = len(crowd.places), memory_kib(args.pid)
    print(f"{n} people wait; the server has {before_kib} KiB")

    async def quietly(what):
        cpu, events, beats = cpu_s(args.pid), crowd.n_events, crowd.n_beats
        await asyncio.sleep(args.seconds)
        spent = (cpu_s(args.pid) - cpu) / args.seconds
        events, beats = (crowd.n_events - events) / args.seconds, (crowd.n_beats - beats) / args.seconds
        print(f"{what}: {spent:.2%} of a core, {events:.0f} events/s, {beats:.0f} heartbeats/s")

    await quietly("no streams")
    opening, began = asyncio.Semaphore(200), time.monotonic()
    streams = [asyncio.create_task(crowd.follow(place, opening)) for place in crowd.places]
    while crowd.n_open < n:
        await asyncio.sleep(0.1)
    print(f"opened in {time.monotonic() - began:.1f} s")
    await asyncio.sleep(5)
    await quietly(f"{n} streams, no change")
    after_kib = memory_kib(args.pid)
    print(f"the server has {after_kib} KiB: {(after_kib - before_kib) / n:.1f} KiB a stream")

    cpu, began = cpu_s(args.pid), time.monotonic()
    call(admission, "PATCH", {"capacity": args.let_in}, operator)
    while len(crowd.admitted_at) < args.let_in:
        await asyncio.sleep(0.1)
    waits = sorted(at - began for at in crowd.admitted_at)
    print(f"{args.let_in} admitted: the first learned of it after {waits[0]:.2f} s, the median {waits[len(waits) // 2]:.2f} s, "
          f"the last {waits[-1]:.2f} s; the server spent {cpu_s(args.pid) - cpu:.2f} s of CPU")
    await quietly(f"{n} streams, after the line has moved")
    for stream in streams:
        stream.cancel()


if __name__ == "__main__":
    asyncio.run(main())
