"""A fake OpenAI endpoint with seeded errors and delays, as a process of its own.

    python fake_endpoint.py LOG

prints its port. The model's name says how it behaves (`behave`, `content`); a response depends on the prompt alone.
Each request is a line of LOG when it arrives: model, prompt, how many times the two came before, and how many requests
to the model were open then, itself included.
"""

import gzip
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GARBAGE = (
    b"<html>busy</html>",
    b'{"choices": [',
    b"[]",
    b'{"choices": []}',
    b'{"choices": [{"message": {"content": 3}}]}',
    b'"ok"',
    b"\xff\xfe\x00",
)
seen: dict[tuple[str, str], int] = {}
open_now: Counter[str] = Counter()
lock = threading.Lock()


def number(*parts: object) -> int:
    """A number of 0 to 999 that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") % 1000


def content(model: str, prompt: str) -> str:
    """What a model that works says: a number; a class or, now and then, none; or whether two answers are the same."""
    if model == "classifier":
        codes = ("11", "51", "60", "99")
        return f"It is about that, not 05.\n\n**{codes[number(prompt) % 4]}**"
    if model == "judge":
        first, second = prompt.split("First answer:")[1].split("Second answer:")
        same = sorted(first.lower().split()) == sorted(second.lower().split())
        return "I cannot tell." if "puzzled" in prompt else f"I compared them.\n{'Yes' if same else 'No'}."
    odd = " \ud800\0\n" if model == "odd" else ""
    return f"Answer: {number(prompt, 'answer')}{odd}"


def completion(model: str, prompt: str) -> bytes:
    thinking = " ".join(f"step {number(prompt, i)}" for i in range(number(prompt) % 30 + 1))
    message = {"role": "assistant", "content": content(model, prompt), "reasoning_content": thinking}
    usage = {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(thinking) + 3,
        "total_tokens": 0,
        "completion_tokens_details": {"reasoning_tokens": len(thinking)},
    }
    ended = "length" if model == "cut" and "long" in prompt else "stop"
    if model == "cut" and "silent" in prompt:
        message["content"] = ""
    choice = {"index": 0, "finish_reason": ended, "message": message}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": model + "-2026",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def behave(model: str, prompt: str, tries: int) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) of the `tries`-th request for a prompt."""
    if model.startswith("garbage"):
        return 200, GARBAGE[int(model[7:])], {}
    if model == "slow":
        time.sleep(3)
    if model == "paced":
        time.sleep(0.5 + number(prompt, "pace") / 1000)
    if model == "limited" and tries < 2:
        return 429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.05"}
    if model == "broken":
        return 503, b"upstream is away", {}
    if model == "packed":  # 20 MiB
        return 200, gzip.compress(b'{"x":"' + b" " * (20 << 20)), {"Content-Encoding": "gzip"}
    if model == "superscript":
        return 429, b"{}", {"Retry-After": "\N{SUPERSCRIPT TWO}"}
    if model == "locked":
        return 401, b'{"error": {"message": "wrong key"}}', {}
    if model == "strict":
        return 400, b'{"error": {"message": "prompt too long"}}', {}
    if model == "flaky":
        time.sleep(0.005 + number(prompt, "delay") / 40_000)
        kind = number(prompt, "kind")
        if kind < 20:
            return 400, b'{"error": {"message": "no such prompt"}}', {}
        if kind < 40:
            return 200, GARBAGE[kind % len(GARBAGE)], {}
        if tries < (2 if kind < 140 else 1 if kind < 300 else 0):
            return (429, 500, 503)[kind % 3], b"{}", {}
    return 200, completion(model, prompt), {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, prompt = body["model"], body["messages"][-1]["content"]
        with lock:
            tries = seen.get((model, prompt), 0)
            seen[model, prompt] = tries + 1
            open_now[model] += 1
            line = {"model": model, "prompt": prompt, "tries": tries, "open": open_now[model], "body": body}
            log.write(json.dumps(line) + "\n")
            log.flush()
        status, answer, headers = behave(model, prompt, tries)
        with lock:  # before it is answered: who has an answer may ask again at once
            open_now[model] -= 1
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *parts):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request, address):
        pass  # a client that was killed


if __name__ == "__main__":
    log = open(sys.argv[1], "a")  # noqa: SIM115  (open for the life of the process)
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()  # ends with its parent
    server.serve_forever()
