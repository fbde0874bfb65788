"""From start to end: what is said while it loads, how it ends, what a dead engine does."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.serve.running_server import RunningServer

LONG = {"min_thinking_tokens": 1200, "max_tokens": 1300, "stream": True}
QUESTION = [{"role": "user", "content": "How many r in raspberry?"}]


def workers(server: RunningServer) -> list[int]:
    """Processes of its engines."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [c for c in children if b"engine.replicas.worker" in Path(f"/proc/{c}/cmdline").read_bytes()]


class Streams:
    """Chats that stream, each on a thread: the events of each, and what went wrong."""

    def __init__(self, server: RunningServer, bodies: list[dict]) -> None:
        self.events: list[list[str]] = [[] for _ in bodies]
        self._begun = threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(len(bodies))
        self._done = [self._pool.submit(self._read, server.url, body, at) for at, body in enumerate(bodies)]
        for _ in bodies:
            assert self._begun.acquire(timeout=120)

    def wait(self) -> list[str]:
        """The last event of each."""
        for done in self._done:
            done.result(120)
        self._pool.shutdown()
        return [events[-1] for events in self.events]

    def _read(self, url: str, body: dict, at: int) -> None:
        body = {"messages": QUESTION, **body}
        with httpx2.stream("POST", url + "/v1/chat/completions", json=body, timeout=120) as reply:
            for number, line in enumerate(reply.iter_lines()):
                if line.startswith("data: "):
                    self.events[at].append(line[6:])
                if number == 4:
                    self._begun.release()


def test_it_listens_at_once_and_says_503_until_it_is_ready():
    with RunningServer(ready=False) as server:
        port = None
        while port is None:  # the port is one that the system chose
            port = next(iter(ports(server.process.pid)), None)
            assert server.process.poll() is None
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port}"
        assert httpx2.get(f"{url}/health").status_code == 200
        for reply in (
            httpx2.get(f"{url}/health/ready"),
            httpx2.get(f"{url}/v1/models"),
            httpx2.post(f"{url}/v1/chat/completions", json={"messages": QUESTION}),
        ):
            assert reply.status_code == 503 and reply.headers["retry-after"] == "1", "it loaded before it was asked"
            assert reply.json()["error"]["type"] == "overloaded_error"
        server.wait_until_ready()
        assert server.url == url and server.get("/health/ready").status_code == 200


def ports(pid: int) -> list[int]:
    """TCP ports at which a process listens."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if os.path.lexists(path)]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes]


def test_told_to_end_it_lets_32_streams_finish():
    with RunningServer("--shutdown-timeout", "100") as server:
        streams = Streams(server, [LONG] * 32)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("requests have 100 s to finish")
        reply = server.post("/v1/chat/completions", {"messages": QUESTION})
        assert reply.status_code == 503 and "draining" in reply.text and "retry-after" in reply.headers
        assert streams.wait() == ["[DONE]"] * 32
        assert server.process.wait(30) == 0
        for events in streams.events:
            end = json.loads(events[-2])["choices"][0]
            assert end["finish_reason"] in ("stop", "length") and end["thinking"]["tokens"] >= 1200


@pytest.mark.parametrize(("timeout", "signals"), [("0.5", 1), ("100", 2)])
def test_what_does_not_finish_in_time_is_told_so(timeout, signals):
    """The time is over, or somebody says it again."""
    with RunningServer("--shutdown-timeout", timeout) as server:
        streams = Streams(server, [LONG | {"n": 2}] * 32)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        if signals == 2:
            server.wait_for("requests have")
            server.process.send_signal(signal.SIGTERM)
        last = [json.loads(event) for event in streams.wait() if event != "[DONE]"]
        assert server.process.wait(30) == 0 and time.monotonic() - started < 20
        assert last and all("server ends" in event["error"]["message"] for event in last)
        assert all(event["error"]["type"] == "overloaded_error" for event in last)


def test_told_to_end_while_it_loads_it_ends():
    with RunningServer(ready=False) as server:
        while not workers(server):
            time.sleep(0.01)
        (engine,) = workers(server)
        assert server.stop() == 0
        assert not Path(f"/proc/{engine}").exists()


def test_a_dead_engine_ends_the_server():
    with RunningServer() as server:
        streams = Streams(server, [LONG] * 2)
        os.kill(workers(server)[0], signal.SIGKILL)
        last = streams.wait()
        assert server.process.wait(30) == 1
        assert all("signal 9" in json.loads(event)["error"]["message"] for event in last)
        assert any("signal 9" in line for line in server.said if line.startswith("error: replica 0"))


def test_of_two_engines_the_killed_one_s_requests_alone_fail_and_it_is_back_soon():
    with RunningServer("--data-parallel-size", "2") as server:
        streams = Streams(server, [LONG] * 8)
        victim, _ = workers(server)
        started = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        while len(workers(server)) < 2 or victim in workers(server) or None in replicas(server):
            assert time.monotonic() - started < 60
            time.sleep(0.05)
        back = time.monotonic() - started
        last = streams.wait()
        failed = [event for event in last if event != "[DONE]"]
        assert len(failed) == 4, "each had half of them"
        assert all("signal 9" in json.loads(event)["error"]["message"] for event in failed)
        assert server.get("/server_info").json()["restarts"] == 1
        assert server.post("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 40}).status_code == 200
        print(f"back within {back:.1f} s")


def test_engines_end_with_the_server_that_was_killed():
    with RunningServer("--data-parallel-size", "2") as server:
        streams = Streams(server, [LONG] * 2)
        engines = workers(server)
        server.process.kill()
        with pytest.raises(httpx2.TransportError):
            streams.wait()
        end = time.monotonic() + 30
        while any(map(alive, engines)):
            assert time.monotonic() < end
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended may stay until somebody asks how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def replicas(server: RunningServer) -> list[dict | None]:
    return server.get("/server_info").json()["replicas"]


def test_what_does_not_start_says_why_in_one_line(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    empty = tmp_path / "model"
    empty.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for flags, said in (
            (["--model", str(tmp_path / "nothing")], "nothing"),
            (["--model", str(empty)], "tokenizer.json is missing"),
            (["--port", port], f"port {port}"),
            (["--port", "70000"], "--port is 70000"),
            (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
            (["--api-key-file", str(keys)], "API key 1"),
            (["--api-key-file", str(tmp_path / "none")], "--api-key-file"),
            (["--api-key-file", str(tmp_path)], "--api-key-file"),
            (["--data-parallel-size", "0"], "--data-parallel-size"),
            (["--thinking-format", "none", "--thinking-token-budget", "-3"], "thinking_token_budget"),
            (["--max-model-len", "9999999"], "max_model_len"),
            (["--nonsense"], "--nonsense"),
            (["--n", "2"], "--n is not for a server"),
            (["--continue-final-message", "True"], "--continue-final-message is not for a server"),
        ):
            command = [sys.executable, "-m", "engine.serve", "--port", "0", *flags]
            command = command if "--port" not in flags else [sys.executable, "-m", "engine.serve", *flags]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            lines = done.stderr.splitlines()
            assert done.returncode == 2 and said in done.stderr and done.stdout == "", (flags, done)
            assert len(lines) == 1 and lines[0].startswith("error: "), (flags, lines)
            assert "short" not in done.stderr, "a key is not shown"


def test_keys_that_are_none_open_no_door():
    command = [sys.executable, "-m", "engine.serve", "--port", "0", "--host", "0.0.0.0"]
    for given in ("", " , "):
        environment = {**os.environ, "S1_API_KEYS": given}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 2 and "S1_API_KEYS is set and holds no key" in done.stderr


def test_without_its_packages_it_says_which(tmp_path):
    hidden = "import importlib.util as u\nfind = u.find_spec\n"
    hidden += 'u.find_spec = lambda name, *more: None if name == "uvicorn" else find(name, *more)\n'
    (tmp_path / "sitecustomize.py").write_text(hidden)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "engine.serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2 and done.stderr.startswith("error: the server needs uvicorn: pip install")
    assert done.stderr.count("\n") == 1


def test_open_to_others_without_keys_it_warns():
    with RunningServer("--host", "0.0.0.0") as server:
        assert any("anybody who reaches 0.0.0.0" in line for line in server.said)
