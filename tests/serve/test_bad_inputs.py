"""The table of bad inputs, row by row; what is more than one POST; and behind each the server as it was before."""

import ast
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import pytest

from engine.request import Logprob
from engine.serve.errors import HttpError
from engine.serve.shapes import TextLogprobs, chat_logprobs
from tests.serve.bad_inputs import CHAT, COMPLETIONS, ROWS, Sent
from tests.serve.raw_socket import chunked, connect, exchanged, get, post, status
from tests.serve.running_server import RunningServer
from tests.serve.visits import is_well, new_client, resident

ROOT = Path(__file__).resolve().parents[2]
QUESTION = {"messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 16}


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx2.Client]:
    """Requests to the server: one client, for each takes a tenth of a second to make."""
    with new_client(server) as client:
        yield client


def test_the_table_is_whole():
    """Every row has an outcome that is tested, and every test that it names is there."""
    assert [row.number for row in ROWS] == list(range(1, 57))
    for row in ROWS:
        assert row.sent or row.tests, row
        for name in row.tests:
            file, _, function = name.rpartition("::")
            source = (ROOT / file if file else Path(__file__)).read_text()
            assert f"\ndef {function}(" in source, f"row {row.number}: no {name}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.sent], ids=lambda row: f"{row.number} {row.what}")
def test_a_request_has_its_outcome(row, http):
    for sent in row.sent:
        _check(sent, http.post(sent.path, content=sent.body, headers=_JSON))
    is_well(http)


_JSON = {"Content-Type": "application/json"}


def _check(sent: Sent, reply: httpx2.Response) -> None:
    shown = f"{sent.body[:300]!r} -> {reply.status_code} {reply.text[:600]}"
    assert reply.status_code == sent.status, shown
    if sent.status == 200:
        assert sent.named in reply.text, shown
        return
    error = reply.json()["error"]
    assert {*error} == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error", shown
    is_field = re.fullmatch(r"[a-z_]+(\[[^]]+\])*", sent.named)
    assert sent.named == error["param"] if is_field else sent.named in error["message"], shown
    assert error["message"].isprintable() and len(error["message"]) <= 1000, shown
    assert not re.search(r"0x[0-9a-f]{6}|Traceback|\.py\b|site-packages", error["message"]), shown


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(b"X-Long: " + b"x" * 50_000_000 + b"\r\n\r\n", id="one of 50 MB"),
        pytest.param(b"".join(b"x-%d: 1\r\n" % number for number in range(200_000)) + b"\r\n", id="200,000"),
        pytest.param(b"x" * 50_000_000, id="a line without an end"),
    ],
)
def test_headers_without_end_are_refused(headers, server, http):
    before = resident(server)
    assert status(exchanged(server.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n", headers)) == 400
    assert resident(server) - before < 20_000_000
    is_well(http)


def test_a_body_is_counted_while_it_comes(server, http):
    """What is announced is refused before any of it comes, what is not as soon as it is too much."""
    before = resident(server)
    announced = post(CHAT, b"").replace(b"Content-Length: 0", b"Content-Length: 1000000000")
    assert status(exchanged(server.url, announced)) == 413
    endless = (b"100000\r\n" + b" " * 0x100000 + b"\r\n" for _ in range(300))
    reply = exchanged(server.url, chunked(CHAT), endless)
    assert status(reply) == 413 and b'"request_too_large"' in reply and b"10,485,760" in reply
    for length in (b"-1", b"1e3", b"9" * 400, b"1, 2"):
        assert status(exchanged(server.url, post(CHAT, b"").replace(b"Length: 0", b"Length: " + length))) in (400, 413)
    assert resident(server) - before < 60_000_000
    is_well(http)


def test_no_address_is_visited(http):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/image.png"
        parts = [{"type": "text", "text": "1"}, {"type": "image_url", "image_url": {"url": url}}]
        reply = http.post(CHAT, json={"messages": [{"role": "user", "content": parts}], "max_tokens": 16})
        assert reply.status_code == 400 and reply.json()["error"]["param"] == "messages[0].content[1]"
        http.post(CHAT, json={"messages": [{"role": "user", "content": url}], "max_tokens": 16})
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()


def test_the_port_is_all_that_listens(server):
    """Of the server and its engines."""
    family = {server.process.pid, *_children(server.process.pid)}
    assert len(family) >= 2
    inodes = {os.readlink(link)[8:-1] for pid in family for link in _sockets(pid)}
    listening = []
    for table in filter(Path.exists, map(Path, ("/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"))):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and fields[3] in ("0A", "07"):
                listening.append(fields[1])
    assert listening == [f"0100007F:{httpx2.URL(server.url).port:04X}"]


def _children(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from _children(int(child))


def _sockets(pid: int) -> Iterator[Path]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith("socket:"):
                yield link


def _sources(*patterns: str) -> Iterator[tuple[Path, ast.AST]]:
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path, node


def test_no_source_runs_what_it_reads():
    """Neither text nor a module that a model's folder brings."""
    for path, node in _sources("engine/**/*.py", "kernels/**/*.py"):
        named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id
        assert named not in ("eval", "exec", "compile", "__import__"), f"{path}: {named}"
        used = isinstance(node, ast.Attribute) and node.attr
        assert used not in ("exec_module", "spec_from_file_location", "run_path", "run_module"), f"{path}: {used}"


def test_no_regular_expression_sees_what_a_model_writes():
    written = ("chat", "completions", "messages", "shapes", "running", "exchange")
    paths = [f"engine/serve/{name}.py" for name in written]
    for path, node in _sources(*paths, "engine/response.py", "engine/thinking/plan.py", "engine/text/stream*.py"):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not {"re", "regex"}.intersection(names), path


def test_special_tokens_that_a_message_spells_are_text(http):
    def count(content: str, token: int) -> int:
        message = {"role": "user", "content": content}
        tokens = http.post("/tokenize", json={"messages": [message]}).json()["tokens"]
        return tokens.count(token)  # type: ignore[no-any-return]

    for literal in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        tokens = http.post("/tokenize", json={"prompt": literal}).json()["tokens"]
        assert len(tokens) == 1, "it is a special token"
        assert count(literal * 5, *tokens) == count("hi", *tokens)


def test_next_to_no_temperature_is_none(http):
    said = []
    for temperature in ("0", "1e-40", "5e-324", "-0.0", "1e-9"):
        body = json.dumps({**QUESTION, "max_tokens": 64, "seed": 1})[:-1] + f', "temperature": {temperature}}}'
        reply = http.post(CHAT, content=body, headers=_JSON)
        said.append(reply.json()["choices"][0]["message"])
    assert said[0]["content"] and said == said[:1] * 5


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_the_impossible_has_a_finite_log_probability(value, engine):
    impossible = Logprob(1, value, ((2, -0.5), (3, value)))
    for shape in (chat_logprobs(engine.tokenizer, [impossible]), TextLogprobs(engine.tokenizer).of([impossible])):
        text = json.dumps(shape, allow_nan=False)
        assert "-9999.0" in text and "-0.5" in text


def test_how_likely_a_prompt_is_that_fills_the_context(http):
    body = {"prompt": [5, 6] * 1024, "max_tokens": 0, "echo": True, "logprobs": 2}
    likely = http.post(COMPLETIONS, json=body).json()["choices"][0]["logprobs"]
    assert len(likely["token_logprobs"]) == 2048 and likely["token_logprobs"][0] is None
    assert all(value <= 0 for value in likely["token_logprobs"][1:])
    is_well(http)


def test_many_long_prompts_at_once(http):
    def ask(first: int) -> int:
        body = {"prompt": [first + 5, *[7] * 999], "max_tokens": 2}
        return http.post(COMPLETIONS, json=body).status_code

    with ThreadPoolExecutor(48) as threads:
        assert {*threads.map(ask, range(48))} == {200}
    is_well(http)


def test_every_whole_number_has_bounds(http):
    """Of every body that the schema shows, also those that no example does."""
    schema = http.get("/openapi.json").json()
    posts = {path: methods["post"]["requestBody"] for path, methods in schema["paths"].items() if "post" in methods}
    seen = 0
    for path, body in posts.items():
        named = body["content"]["application/json"]["schema"].get("$ref", "").rpartition("/")[2]
        fields = schema["components"]["schemas"][named]["properties"] if named else {}
        asked = QUESTION if "messages" in fields else {"input" if "input" in fields else "prompt": "1"}
        for name, field in fields.items():
            if "integer" not in [one.get("type") for one in field.get("anyOf", [field])] or name == "mark":
                continue
            for value in (-3, 2**63, 10**30):
                reply = http.post(path, json={**asked, name: value})
                told = name in reply.text or "thinking_token_budget" in reply.text  # by its other names
                assert reply.status_code == 400 and told, (path, name, value, reply.text)
                seen += 1
    assert seen > 60
    is_well(http)


def test_errors_say_nothing_of_the_inside():
    secret = "/home/someone/secret.py at 0x7f0123456789"
    for error in (RuntimeError(secret), KeyError(secret), OSError(2, secret), AssertionError(secret)):
        for anthropic in (False, True):
            said = json.dumps(HttpError.of(error).body("id", anthropic))
            assert HttpError.of(error).status == 500 and "secret" not in said and "0x7f" not in said


def test_a_request_is_one_line_of_the_log(server, http):
    evil = "\x1b[31m\x9b\u2028%0a%0d%1b[2J"
    sent: list[Callable[[], Any]] = [
        lambda: exchanged(server.url, get("/%0a%0dHTTP%1b[31m%e2%80%a8%00")),
        lambda: exchanged(server.url, get("/health", "X-Request-Id: a\x1b[31mb\x9b")),
        lambda: exchanged(server.url, get("/health", f"X-Request-Id: {'a' * 5000}")),
        lambda: http.post(CHAT, json={**QUESTION, "model": f"a\nb\r{evil}"}),
        lambda: http.post(CHAT, json={**QUESTION, "user": f"a\nb\r{evil}" * 100}),
        lambda: http.post(CHAT, json={**QUESTION, f"a\nb\r{evil}": 1}),
        lambda: http.post(COMPLETIONS, json={"prompt": "1", "max_tokens": 1, "stop": [f"a\nb\r{evil}" * 40]}),
        lambda: http.post("/v1/requests/a%0ab%1b[31m/control", json={"action": "extend"}),
    ]
    for send in sent:
        before = len(server.said)
        send()
        http.get("/health/ready")  # whose line comes last
        end = time.monotonic() + 5
        while len(server.said) < before + 2 and time.monotonic() < end:
            time.sleep(0.01)
        lines = server.said[before:]
        assert len(lines) == 2, lines
        assert all(line.isprintable() and len(line) < 600 and "1 + 1?" not in line for line in lines), lines


def test_pages_are_served_whole(server, http):
    whole = http.get("/static/style.css")
    for ranges in ("bytes=0-9", "bytes=" + ",".join(f"{at}-{at}" for at in range(1000)), "bytes=5-1"):
        reply = http.get("/static/style.css", headers={"Range": ranges})
        assert reply.status_code == 200 and reply.content == whole.content
    for name in ("..%2fserve%2fdoor.py", "%2e%2e/door.py", "../door.py", "style.css%00", "", "%2fetc%2fpasswd"):
        assert status(exchanged(server.url, get(f"/static/{name}"))) == 404


@pytest.mark.parametrize(
    "tail",
    [
        b"5\r\nhelloXX0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"5;\nhello\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"f" * 40 + b"\r\n",
    ],
)
def test_chunks_that_lie_are_refused(tail, server, http):
    """A parser that is lenient here finds a second request where a proxy in front of it has seen one."""
    assert tuple(map(int, version("h11").split(".")[:2])) >= (0, 16)
    reply = exchanged(server.url, chunked(CHAT).replace(b"Connection: close\r\n", b""), tail)
    assert b"s1_http_replies" not in reply and reply.count(b"HTTP/1.1 ") <= 1 and b" 200 " not in reply[:20]
    is_well(http)


def test_pages_and_names_of_others_are_refused(server, http):
    own = server.url.removeprefix("http://")
    cases = [
        ({"Host": "evil.example"}, 403),
        ({"Host": f"evil.example:{own.rpartition(':')[2]}"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": "[::1]"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://{own}.evil.example"}, 403),
        ({"Origin": server.url}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "text/plain; application/json"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ]
    for headers, wanted in cases:
        reply = http.post(CHAT, content=json.dumps(QUESTION), headers={**_JSON, **headers})
        assert reply.status_code == wanted, (headers, reply.text)
        assert "access-control-allow-origin" not in reply.headers
    reply = http.request("OPTIONS", CHAT, headers={"Origin": "http://evil.example"})
    assert reply.status_code == 403
    is_well(http)


def test_a_port_that_is_taken_is_one_line(server):
    port = str(httpx2.URL(server.url).port)
    command = [sys.executable, "-m", "engine.serve", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2 and not ended.stdout
    assert re.fullmatch(
        rf"error: cannot listen at 127.0.0.1, port {port}: .+; choose another --port or --host\n", ended.stderr
    )


def test_a_log_that_takes_no_more_harms_nobody():
    """Every line of it fails."""
    command = [sys.executable, "-m", "engine.serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as serving:
        try:
            assert serving.stderr is not None
            url = next(line.split()[-1] for line in serving.stderr if line.startswith("ready: "))
            serving.stderr.close()
            with connect(url) as connection:
                for path, wanted in (("/health", b" 200 "), ("/nowhere", b" 404 "), ("/health", b" 200 ")):
                    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    reply = b""
                    while not reply.endswith(b"}"):
                        reply += (some := connection.recv(1 << 16))
                        assert some, "the connection is kept"
                    assert wanted in reply
            assert httpx2.post(url + CHAT, json=QUESTION, timeout=60).status_code == 200
        finally:
            serving.terminate()
        assert serving.wait(30) == 0


def test_only_clocks_that_do_not_jump_are_measured_by():
    """The time of day is written, as whole seconds, and never subtracted."""
    written = re.compile(r"int\(time\.time\(\)\)|time\.gmtime\([\w.]*\)")
    for path in (
        *ROOT.glob("engine/serve/*.py"),
        *ROOT.glob("engine/replicas/*.py"),
        *ROOT.glob("engine/schedule/*.py"),
    ):
        others = written.sub("", path.read_text())
        assert not re.search(r"time\.time|gmtime|localtime|datetime", others), path


def test_labels_of_metrics_are_few(http):
    before = http.get("/metrics").text
    for number in range(20):
        http.get(f"/nowhere-{number}")
        http.post(CHAT, json={**QUESTION, "model": f"unheard-of-{number}"})
        http.post(f"/v1/requests/guessed-{number}/control", json={"action": "extend"})
    after = http.get("/metrics").text
    assert not re.search("nowhere|unheard-of|guessed", after)
    assert len(after.splitlines()) - len(before.splitlines()) <= 4  # a status that nobody had before
