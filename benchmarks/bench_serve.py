"""Serves one model by the model server and its peers, and prints the ratios.

Usage: python benchmarks/bench_serve.py [--rounds 3] [--seconds 2] [--output FILE]
                                        [--mlserver PYTHON]

Every server has two workers and one thread in each; wrk asks the same thing over and over. Rounds
go through all servers in turn, and medians are reported, so that a busy moment of the machine hits
all alike. `echo` and `multiply` are bare uvicorn apps without a model, `flask` is the same program
behind the same hooks under gunicorn and Flask.
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).parent
CODE = HERE.parent / "code"
SCRIPTS = Path(sys.executable).parent
P = 10
WORKERS = 2
CONNECTIONS = (1, 8, 64)
ROWS = (1, 1000)
NPY, CSV, JSON = "application/x-npy", "text/csv", "application/json"
EXPLAIN = f"{JSON}; explain=true"
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def train(folder):
    """Train the program's own model on ten features, and return an /opt/ml tree."""
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(5000, P))
    base = folder / "ml"
    for name in ("train", "model"):
        (base / name).mkdir(parents=True)
    y = np.sin(6 * X).sum(axis=1) + rng.normal(size=len(X))
    np.save(base / "train" / "rows.npy", np.column_stack([X, y]))
    environ = {
        "SM_CHANNELS": '["train"]',
        "SM_CHANNEL_TRAIN": str(base / "train"),
        "SM_MODEL_DIR": str(base / "model"),
        "SM_OUTPUT_DIR": str(base / "output"),
    }
    command = [sys.executable, str(CODE / "model_logic.py")]
    subprocess.run(command, env={**os.environ, **environ}, check=True, capture_output=True)
    return base


def write_bodies(folder):
    """Write the request bodies; return (rows, kind) -> (file, content type, accept)."""
    bodies = {}
    for n in ROWS:
        X = np.random.default_rng(n).uniform(size=(n, P)).round(6)
        stream = io.BytesIO()
        np.save(stream, X)
        text = json.dumps({"instances": X.tolist()})
        tensor = {"name": "x", "shape": [n, P], "datatype": "FP64", "data": X.ravel().tolist()}
        lines = "".join(",".join(map(repr, row)) + "\n" for row in X.tolist())
        for kind, body, content_type, accept in (
            ("npy", stream.getvalue(), NPY, NPY),
            ("csv", lines.encode(), CSV, CSV),
            ("json", text.encode(), JSON, JSON),
            ("json explained", text.encode(), JSON, EXPLAIN),
            ("v2", json.dumps({"inputs": [tensor]}).encode(), JSON, JSON),
        ):
            path = folder / f"{n}-{kind}"
            path.write_bytes(body)
            bodies[n, kind] = (path, content_type, accept)
    return bodies


# ---------------------------------------------------------------- servers


class Server:
    """A server and all its processes, from start to end."""

    def __init__(self, command, environ, port, ready="/ping", path="/invocations"):
        self.port, self.path = port, path
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **ONE_CORE, **environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not self._answers(ready):
            if self._process.poll() is not None or time.perf_counter() - start > 120:
                self.stop()
                raise RuntimeError(f"{command[0]} does not answer")
            time.sleep(0.002)
        self.start_s = time.perf_counter() - start

    def _answers(self, path):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(link), contextlib.suppress(OSError, http.client.HTTPException):
            link.request("GET", path)
            return link.getresponse().status == 200
        return False

    def check(self, body):
        """Raise a RuntimeError unless the server has an answer to this."""
        path, content_type, accept = body
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(link):
            headers = {"Content-Type": content_type, "Accept": accept}
            link.request("POST", self.path, path.read_bytes(), headers)
            answer = link.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{path.name}: {answer.status}, {answer.read(1000)!r}")

    def processes(self):
        """Return all its processes."""
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def memory_mb(self):
        """Return the memory of all processes, where what they share counts once."""
        return sum(process.memory_full_info().pss for process in self.processes()) / 2**20

    def stop(self):
        """End it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            processes = self.processes()
            self._process.terminate()
            _, left = psutil.wait_procs(processes, timeout=10)
            for process in left:
                process.kill()
        self._process.wait()


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def starters(base, folder, mlserver):
    """Return how to start each server, and which bodies it can answer."""
    environ = {"PYTHONPATH": f"{HERE}{os.pathsep}{CODE}", "MODEL_DIR": str(base / "model")}

    def ours():
        port = free_port()
        sagemaker = {
            "SAGEMAKER_BASE_DIR": str(base),
            "SAGEMAKER_SUBMIT_DIRECTORY": str(CODE),
            "SAGEMAKER_PROGRAM": "model_logic.py",
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_MODEL_SERVER_WORKERS": str(WORKERS),
            "MODEL_SERVER_HOST": "127.0.0.1",
        }
        return Server([SCRIPTS / "serve"], sagemaker, port)

    def uvicorn(*app):
        port = free_port()
        quiet = ("--no-access-log", "--log-level", "error")
        return Server([SCRIPTS / "uvicorn", *app, "--port", str(port), *quiet], environ, port)

    def flask():
        port = free_port()
        bind = ("--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}")
        return Server([SCRIPTS / "gunicorn", *bind, "serve_peers:flask()"], environ, port)

    def ml():
        port, home = free_port(), folder / "mlserver"
        home.mkdir(exist_ok=True)
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "metrics_dir": str(home / "metrics"),  # by default, where it was started
            "parallel_workers": WORKERS,
        }
        model = {"name": "gam", "implementation": "serve_peers.Gam"}
        (home / "settings.json").write_text(json.dumps(settings))
        (home / "model-settings.json").write_text(json.dumps(model))
        command = [Path(mlserver).parent / "mlserver", "start", str(home)]
        return Server(command, environ, port, "/v2/models/gam/ready", "/v2/models/gam/infer")

    workers = ("--workers", str(WORKERS))
    all_kinds = ("npy", "csv", "json", "json explained")
    servers = {
        "model server": (ours, all_kinds),
        "echo": (lambda: uvicorn("serve_peers:echo", *workers), ("npy", "csv", "json")),
        "multiply": (lambda: uvicorn("serve_peers:multiply", *workers), ("npy",)),
        "flask": (flask, all_kinds),
        "mlserver": (ml, ("v2",)),
        # Only its start is measured.
        "uvicorn + sklearn": (lambda: uvicorn("--factory", "serve_peers:idle"), ()),
    }
    if not mlserver:
        print("mlserver is left out: its environment could not be made")
        del servers["mlserver"]
    return servers


# ---------------------------------------------------------------- measurements


def ask(server, body, connections, seconds):
    """Let wrk ask for a while."""
    path, content_type, accept = body
    done = subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(connections)),
            *("--duration", f"{seconds}s", "--script", str(HERE / "serve.lua")),
            f"http://127.0.0.1:{server.port}",
        ],
        env={
            **os.environ,
            **{"BODY": str(path), "TYPE": content_type, "ACCEPT": accept, "TARGET": server.path},
        },
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(servers, bodies, rounds, seconds):
    """Return the medians of every server's figures."""
    results = {name: {} for name in servers}
    starts = {name: [] for name in servers}
    with contextlib.ExitStack() as stack:
        running = {}
        for turn in range(rounds):
            for name, (start, kinds) in servers.items():
                server = start()
                starts[name].append(server.start_s)
                for (_, kind), body in bodies.items():
                    if kind in kinds:
                        server.check(body)
                if turn < rounds - 1:
                    server.stop()
                else:
                    running[name] = server
                    stack.callback(server.stop)
        cells = {}
        for _ in range(rounds):
            for (n, kind), body in bodies.items():
                for connections in CONNECTIONS:
                    for name, (_, kinds) in servers.items():
                        if kind in kinds:
                            figures = ask(running[name], body, connections, seconds)
                            cells.setdefault((name, n, kind, connections), []).append(figures)
        for (name, n, kind, connections), figures in cells.items():
            results[name][f"{n} {kind} {connections}"] = {
                key: statistics.median(f[key] for f in figures) for key in figures[0]
            }
        for name, server in running.items():
            results[name]["start_s"] = statistics.median(starts[name])
            results[name]["memory_mb"] = server.memory_mb()
    return results


def report(results):
    """Print all figures, then those that have a bar."""
    ours = results["model server"]
    for key, figures in ours.items():
        if not isinstance(figures, dict):
            continue
        n, *words, connections = key.split()
        kind = " ".join(words)
        print(f"\n{n} rows, {kind}, {connections} connections")
        peer_key = {"mlserver": f"{n} v2 {connections}" if kind == "json" else None}
        for name, result in results.items():
            cell = result.get(peer_key.get(name, key))
            if cell:
                ratio = cell["per_s"] / figures["per_s"]
                print(
                    f"  {name:<14} {ratio:6.2f} x {cell['per_s']:10,.0f}/s  "
                    f"p50 {cell['p50_us']:8,.0f} us  p99 {cell['p99_us']:9,.0f} us"
                    + (f"  failed: {cell['failed']:.0f}" if cell["failed"] else "")
                )
    print()
    for name, result in results.items():
        print(f"{name:<18} start {result['start_s']:5.2f} s  memory {result['memory_mb']:4.0f} MB")

    def per_s(name, kind, connections):
        return results[name][f"1 {kind} {connections}"]["per_s"]

    print("\nwhat must hold, 1 row:")
    for c in (1, 8):
        mine = per_s("model server", "npy", c)
        of_multiply, of_flask = (mine / per_s(name, "npy", c) for name in ("multiply", "flask"))
        print(f"  {c} connections: {of_multiply:.2f} of multiply (>= .80),", end=" ")
        print(f"{of_flask:.1f} times flask (>= 4)")
    p99 = ours["1 npy 8"]["p99_us"] / results["multiply"]["1 npy 8"]["p99_us"]
    print(f"  p99 on 8 connections: {p99:.2f} of multiply's (< 2)")
    explained = per_s("model server", "json", 1) / per_s("model server", "json explained", 1)
    print(f"  explain=true: {explained:.2f} times as long (<= 1.5)")
    print(f"  memory: {ours['memory_mb']:.0f} MB (< 250)")
    start = results["uvicorn + sklearn"]["start_s"]
    print(f"  start to first 200: {ours['start_s']:.2f} s, uvicorn + sklearn {start:.2f} s")


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/bench-serve.json"))
    parser.add_argument("--mlserver", help="the Python of an environment that has MLServer")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; on Debian: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = starters(train(folder), folder, arguments.mlserver)
        results = measure(servers, write_bodies(folder), arguments.rounds, arguments.seconds)
    report(results)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
