"""Lines of OpenAI's batch files, {"custom_id": ..., "method": "POST", "url": ..., "body": {...}}, in our terms.

A body may name everything that SamplingParams has beside what OpenAI has. What it leaves out is our default, not
OpenAI's (temperature 0, no limit of tokens). What would change the answer and cannot be done is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from engine.errors import InputError, is_whole, refuse, shown

_PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
"""What each endpoint is asked."""
_LABELS = (
    *("model", "user", "metadata", "store", "service_tier"),
    *("safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
)
"""What says who asks, what and how it is paid: no answer depends on it. It stands in the output, under `input`."""
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "stream_options": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (False, True),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}
"""What we cannot do, and the values of it that ask for nothing; null does not either."""


def is_batch_line(line: Mapping[str, Any]) -> bool:
    """Whether a line that has no prompt of its own is one of a batch file."""
    return "custom_id" in line and "body" in line


def read_batch_line(line: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a line asks, `messages`, `text` or `prompt_token_ids` alone, and its parameters by our names, both as
    given. Raises InputError naming the field."""
    method, url, body = line.get("method"), line.get("url"), line["body"]
    refuse(
        (method not in (None, "POST"), f"method is {shown(method)}; give POST"),
        (url is not None and url not in [*_PROMPTS], f"url is {shown(url)}; give {' or '.join(_PROMPTS)}"),
        (not isinstance(body, dict), f"body is {shown(body)}; give the object that the endpoint takes"),
        (line.get("params") is not None, "params stands beside body; put its parameters into body"),
    )
    asked = [name for name in _PROMPTS.values() if body.get(name) is not None]
    wanted = [*_PROMPTS.values()] if url is None else [_PROMPTS[url]]
    if len(asked) != 1 or asked[0] not in wanted:
        raise InputError(f"body has {' and '.join(asked) or 'no prompt'}; give {' or '.join(wanted)}")
    if asked[0] == "prompt":
        return _text_or_ids(body["prompt"]), read_parameters(body, "body: ")
    return {"messages": body["messages"]}, read_chat_parameters(body, "body: ")


def read_parameters(body: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The parameters of a body, without what it asks and what no answer depends on. Raises InputError, its message
    begun with `where`, for what cannot be done."""
    for name, values in _HARMLESS.items():
        value = body.get(name)
        if value is not None and value not in values:
            raise InputError(f"{where}{name} is {shown(value)}, which this engine cannot do; leave it out")
    apart = {*_PROMPTS.values(), *_LABELS, *_HARMLESS}
    return {name: value for name, value in body.items() if name not in apart}


def read_chat_parameters(body: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """As `read_parameters`, with what a chat calls otherwise."""
    params = read_parameters(body, where)
    _count_logprobs(params, where)
    most = params.pop("max_completion_tokens", None)
    if most is not None:
        if params.get("max_tokens") not in (None, most):
            raise InputError(f"{where}max_tokens and max_completion_tokens differ; give one of them")
        params["max_tokens"] = most
    return params


def _text_or_ids(prompt: Any) -> dict[str, Any]:
    if isinstance(prompt, list) and prompt and all(map(is_whole, prompt)):
        return {"prompt_token_ids": prompt}
    if not isinstance(prompt, str) or not prompt:
        raise InputError(f"body: prompt is {shown(prompt)}; give a text or token ids, several prompts in several lines")
    return {"text": prompt}


def _count_logprobs(params: dict[str, Any], where: str) -> None:
    """Of a chat, `logprobs` says whether and `top_logprobs` how many; ours is how many."""
    whether, many = params.pop("logprobs", None), params.pop("top_logprobs", None)
    refuse(
        (
            whether is not None and not isinstance(whether, bool),
            f"{where}logprobs is {shown(whether)}; give true or false, and how many as top_logprobs",
        ),
        (many and not whether, f"{where}top_logprobs is {shown(many)}; set logprobs to true beside it"),
    )
    if whether:
        params["logprobs"] = 0 if many is None else many
