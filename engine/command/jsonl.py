"""Lines in and out of `python -m engine.generate`: one JSON object per line, every mistake named by file and line."""

import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn

from engine.command.openai_batch import is_batch_line, read_batch_line
from engine.config import EngineConfig
from engine.errors import InputError, is_whole, refuse, shown
from engine.input_file import read_lines
from engine.json_file import parse_json
from engine.request import Completion, Prompt, RequestOutput, SamplingParams
from engine.text.chat_template import check_messages

_PROMPTS = ("prompt", "messages", "prompt_token_ids")
_PARAMETERS = {field.name: field.name for field in fields(SamplingParams)} | {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "top_logprobs": "logprobs",
    "max_thinking_tokens": "thinking_token_budget",
    "thinking_budget": "thinking_token_budget",
}
"""Our name of every parameter, also by the names that others give it."""


@dataclass(frozen=True)
class InputLine:
    """One request of an input file."""

    index: int
    """Position among the requests, from 0; blank lines do not count."""
    id: str | int
    """The line's own, otherwise `index` as text."""
    prompt: Prompt
    params: SamplingParams
    fields: Mapping[str, Any]
    """What the output carries under `input`: everything but the id and `params`."""
    where: str
    """File and line, for messages."""


def read_input(path: str, base: SamplingParams, carry: Collection[str] = ()) -> list[InputLine]:
    """Every request of a JSONL file ("-": standard input), its `params` laid over `base`. Fields named in `carry` are
    data, also where they have a parameter's name.

    Pipes are read too, so a line has a bound (`engine.input_file`). Raises InputError naming file, line and field for
    the first line that cannot be used.
    """
    name = "<stdin>" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise InputError(f"{name}: is closed; give a file or a pipe")
    requests: list[InputLine] = []
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            for number, raw in read_lines(file, name):
                if raw.strip():
                    requests.append(_parse_line(raw, f"{name}:{number}", len(requests), base, carry))
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    if not requests:
        raise InputError(f'{name}: holds no requests; give lines such as {{"prompt": "..."}}')
    return requests


def _parse_line(raw: bytes, where: str, index: int, base: SamplingParams, carry: Collection[str]) -> InputLine:
    try:
        value = parse_json(raw, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
    except InputError as error:
        raise InputError(f"{where}: bad JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f'{where}: a JSON {type(value).__name__}, not an object such as {{"prompt": "..."}}')
    try:
        return _request(value, where, index, base, carry)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _request(value: dict[str, Any], where: str, index: int, base: SamplingParams, carry: Collection[str]) -> InputLine:
    """`value` keeps what the output carries. Raises InputError naming the field."""
    asked = {name: value[name] for name in _PROMPTS if value.get(name) is not None}
    batch = not asked and is_batch_line(value)
    place, id_name = ("body", "custom_id") if batch else ("params", "id")
    _refuse_astray(value, place, carry)
    request_id = value.pop(id_name, None)
    if request_id is None:
        request_id = str(index)
    elif not isinstance(request_id, str) and not is_whole(request_id):
        raise InputError(f"{id_name} is {shown(request_id)}; give a string or a whole number")
    if batch:
        asked, params = read_batch_line(value)
    else:
        params = value.pop("params", None)
    params = {} if params is None else params
    refuse(
        (len(asked) != 1, f"{' and '.join(asked) or 'no prompt'}; give exactly one of {', '.join(_PROMPTS)}"),
        (not isinstance(params, dict), f"params is {shown(params)}; give an object of sampling parameters"),
    )
    try:
        sampling = SamplingParams.from_dict(params, base)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return InputLine(index, request_id, _prompt(*asked.popitem()), sampling, value, where)


def _refuse_astray(line: Mapping[str, Any], place: str, carry: Collection[str]) -> None:
    """Parameters outside `place`, `params` or the body of a batch line: nothing would read them."""
    for name, value in line.items():
        if name in _PARAMETERS and name not in carry and value is not None:
            ours = "" if _PARAMETERS[name] == name else f" as {_PARAMETERS[name]}"
            raise InputError(
                f"{name} is {shown(value)} outside {place}, where nothing reads it; put it into {place}{ours}, or pass "
                f"it on as data with --carry {name}"
            )


def _prompt(name: str, given: Any) -> Prompt:
    if name == "messages":
        check_messages(given)
        return {"messages": given}
    if name == "text":
        return {"text": given}
    if name == "prompt":
        if not isinstance(given, str):
            raise InputError(f"prompt is {shown(given)}; give a string")
        if not given:
            raise InputError("prompt is empty; give a question")
    elif not isinstance(given, list) or not all(map(is_whole, given)):
        raise InputError("prompt_token_ids is not a list of whole numbers")
    return given


def repeated_ids(lines: Sequence[InputLine]) -> str | None:
    """What to say where lines have the same id; None where each has its own."""
    first: dict[str | int, InputLine] = {}
    again = [line for line in lines if first.setdefault(line.id, line) is not line]
    if not again:
        return None
    one, before = again[0], first[again[0].id]
    return (
        f"{one.where}: id {shown(one.id)} is also that of {before.where}; {len(again)} of {len(lines)} lines repeat an "
        "id, all of them run, and in the output index tells them apart"
    )


def changed_params(params: SamplingParams) -> dict[str, Any]:
    """The parameters that differ from the defaults, as JSON values."""
    values = {f.name: getattr(params, f.name) for f in fields(params) if getattr(params, f.name) != f.default}
    return json.loads(json.dumps(values))


@dataclass(frozen=True)
class Origin:
    """What made the lines of an output file, so that `--resume` can tell: the model, and the engine's settings that
    results may depend on and that are not the defaults."""

    model: str
    engine: Mapping[str, Any]

    @classmethod
    def of(cls, model: str, config: EngineConfig) -> "Origin":
        """`model` is what lines call it."""
        usual = EngineConfig().decisive
        return cls(model, {name: value for name, value in config.decisive.items() if value != usual[name]})


def output_record(line: InputLine, output: RequestOutput, origin: Origin) -> dict[str, Any]:
    """The output line of a finished request. `model`, `engine` and `params` say how it was made."""
    return {
        "id": line.id,
        "index": line.index,
        "input": dict(line.fields),
        "model": origin.model,
        "engine": dict(origin.engine),
        "params": changed_params(line.params),
        "prompt_token_ids": list(output.prompt_token_ids),
        "outputs": [_completion(sample) for sample in output.outputs],
        "usage": asdict(output.usage),
        "timing": {name: round(value, 6) for name, value in asdict(output.timing).items()},
    }


def _completion(sample: Completion) -> dict[str, Any]:
    record = {
        "index": sample.index,
        "text": sample.text,
        "reasoning": sample.reasoning,
        "answer": sample.answer,
        "token_ids": list(sample.token_ids),
        "forced": list(sample.forced),
        "finish_reason": sample.finish_reason,
        "thinking": asdict(sample.thinking),
    }
    if sample.logprobs is not None:
        record["logprobs"] = [
            {
                "token_id": p.token_id,
                "logprob": _number(p.logprob),
                "forced": p.forced,
                "top": [[token_id, _number(value)] for token_id, value in p.top],
            }
            for p in sample.logprobs
        ]
    if sample.cumulative_logprob is not None:
        record["cumulative_logprob"] = _number(sample.cumulative_logprob)
    if sample.error is not None:
        record["error"] = sample.error
    return record


def _number(value: float) -> float | None:
    """JSON has no infinity: the log-probability of an impossible token is null."""
    return value if math.isfinite(value) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    """Python reads 1e999 as infinity, which no output line could carry."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is out of range")
    return value


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, item in pairs:
        if name in value:
            raise ValueError(f"field {shown(name)} occurs twice")
        value[name] = item
    return value
