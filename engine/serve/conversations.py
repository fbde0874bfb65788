"""Messages as chat templates take them, from what each interface calls a conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import InputError, shown
from engine.serve.bodies import CountBody, MessagesBody


def of_chat(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As templates take them: what was thought in earlier turns is `reasoning_content`, also where a client calls it
    `reasoning`."""
    return [
        {**one, "reasoning_content": one["reasoning"]}
        if one.get("reasoning") and not one.get("reasoning_content")
        else {**one}
        for one in given
    ]


def of_items(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages of the items of /v1/responses; earlier reasoning is left out, as templates do."""
    found = []
    for at, item in enumerate(given):
        kind, content = item.get("type", "message"), item.get("content")
        if kind == "reasoning":
            continue
        if kind != "message":
            raise InputError(f"input[{at}].type is {shown(kind)}, which this engine cannot do; give messages")
        if isinstance(content, list):
            content = [{"type": "text", "text": part.get("text")} if _is_text(part) else part for part in content]
        role = "system" if item.get("role") == "developer" else item.get("role")
        found.append({"role": role, "content": content})
    return found


def of_anthropic(body: MessagesBody | CountBody) -> list[dict[str, Any]]:
    """As templates take them: the system's first, thinking of earlier turns left out as templates do."""
    system = [] if not body.system else [{"role": "system", "content": _said(body.system)}]
    return [*system, *({**message, "content": _said(message.get("content"))} for message in body.messages)]


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("input_text", "output_text")


def _said(content: Any) -> Any:
    """Without thinking, and without what says how to keep a part or where it is from: the text is the same."""
    if not isinstance(content, list):
        return content
    return [
        {
            name: value
            for name, value in part.items()
            if name != "cache_control" and (name, value) != ("citations", None)
        }
        if isinstance(part, dict)
        else part
        for part in content
        if not (isinstance(part, dict) and part.get("type") in ("thinking", "redacted_thinking"))
    ]
