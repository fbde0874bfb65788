"""The schema of every route and body, made from its type: what a client generator or a fuzzer reads."""

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

import msgspec


def openapi(posts: Mapping[str, Any], gets: Iterable[str], deletes: Iterable[str]) -> dict[str, Any]:
    """`posts`: type of the body by path; the other routes have none."""
    refs, components = msgspec.json.schema_components([*posts.values()], ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {_plain(path): {"get": _operation(path)} for path in gets}
    paths |= {_plain(path): {"delete": _operation(path)} for path in deletes}
    for path, ref in zip(posts, refs, strict=True):
        body = {"required": True, "content": {"application/json": {"schema": ref}}}
        paths[_plain(path)] = {"post": _operation(path) | {"requestBody": body}}
    info = {"title": "s1-engine", "version": metadata.version("s1-engine")}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _plain(path: str) -> str:
    """Without what says how a parameter is matched."""
    return path.replace(":path}", "}")


def _operation(path: str) -> dict[str, Any]:
    names = re.findall(r"{(\w+)", path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    answers = {code: {"description": what} for code, what in (("200", "done"), ("400", "what is wrong is named"))}
    return {"parameters": parameters, "responses": answers}
