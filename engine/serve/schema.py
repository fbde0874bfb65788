"""The schema of every body, made from its type: what a client generator or a fuzzer reads."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import msgspec


def openapi(posts: Mapping[str, Any]) -> dict[str, Any]:
    """`posts`: type of the body by path."""
    refs, components = msgspec.json.schema_components([*posts.values()], ref_template="#/components/schemas/{name}")
    answers = {code: {"description": what} for code, what in (("200", "done"), ("400", "what is wrong is named"))}
    paths = {
        path: {
            "post": {
                "requestBody": {"required": True, "content": {"application/json": {"schema": ref}}},
                "responses": answers,
            }
        }
        for path, ref in zip(posts, refs, strict=True)
    }
    info = {"title": "s1-engine", "version": metadata.version("s1-engine")}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}
