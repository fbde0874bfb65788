"""As much of the hub as huggingface_hub asks for, over HTTP on 127.0.0.1: list, fetch, create, commit."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_the_test"
_ROUTE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w+)/([^/]+))?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """One commit of files; a private one is shown to who has the token."""

    files: dict[str, bytes]
    private: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """`repositories`: by kind ("models" or "datasets") and OWNER/NAME; `asked`: every request line, in order."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], kind: str = "datasets") -> Repository:
        return self.repositories.setdefault((kind, name), Repository(files))


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.asked.append(str(args[0]))

    def reply(self, value: Any, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def found(self, kind: str, name: str) -> Repository | None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.private and not self.allowed()):
            self.reply({"error": "Repository not found"}, 401, X_Error_Code="RepoNotFound")
            return None
        return repository

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if (file := _FILE.fullmatch(path)) is not None:
            repository = self.found("datasets" if file[1] else "models", file[2])
            if repository is None:
                return
            if (content := repository.files.get(file[4])) is None:
                self.reply({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
                return
            self.reply(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=repository.commit)
        elif (route := _ROUTE.fullmatch(path)) is not None and (repository := self.found(route[1], route[2])):
            if route[3] == "tree":
                listed = (
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in sorted(repository.files.items())
                )
                self.reply(list(listed))
            else:
                self.reply(
                    {
                        "id": route[2],
                        "sha": repository.commit,
                        "private": repository.private,
                        "siblings": [{"rfilename": name} for name in sorted(repository.files)],
                    }
                )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or self.chunks()
        path = unquote(urlsplit(self.path).path)
        if not self.allowed():
            self.reply({"error": "Invalid credentials"}, 401)
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
            known = (kind, name) in self.hub.repositories
            repository = self.hub.add(name, {}, kind)
            if not known:
                repository.private = asked.get("private", asked.get("visibility") == "private")
            self.reply({"url": f"{self.hub.url}/{'datasets/' * (kind == 'datasets')}{name}"}, 409 if known else 200)
        elif (route := _ROUTE.fullmatch(path)) is not None and (repository := self.found(route[1], route[2])):
            if route[3] == "preupload":
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self.reply({"files": files})
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.reply(
                    {
                        "success": True,
                        "commitOid": repository.commit,
                        "commitUrl": f"{self.hub.url}/{route[2]}/commit/{repository.commit}",
                    }
                )

    def chunks(self) -> bytes:
        parts = []
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, home: Path, token: str | None = TOKEN) -> None:
    """What HF_ENDPOINT, HF_HOME and HF_TOKEN say to a process that starts with them."""
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", url)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(f"{constants}.HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
