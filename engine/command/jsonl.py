"""Lines in and out of `python -m engine.generate`: one JSON object per line, every mistake named by file and line."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn

from engine.config import EngineConfig
from engine.errors import InputError, is_whole, refuse, shown
from engine.input_file import read_lines
from engine.json_file import parse_json
from engine.request import Completion, Prompt, RequestOutput, SamplingParams
from engine.text.chat_template import check_messages

_PROMPTS = ("prompt", "messages", "prompt_token_ids")


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
    """What the output carries under `input`: everything but `id` and `params`."""
    where: str
    """File and line, for messages."""


def read_input(path: str, base: SamplingParams) -> list[InputLine]:
    """Every request of a JSONL file ("-": standard input), its `params` laid over `base`.

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
                    requests.append(_parse_line(raw, f"{name}:{number}", len(requests), base))
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    if not requests:
        raise InputError(f'{name}: holds no requests; give lines such as {{"prompt": "..."}}')
    return requests


def _parse_line(raw: bytes, where: str, index: int, base: SamplingParams) -> InputLine:
    try:
        value = parse_json(raw, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
    except InputError as error:
        raise InputError(f"{where}: bad JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f'{where}: a JSON {type(value).__name__}, not an object such as {{"prompt": "..."}}')
    given = [name for name in _PROMPTS if name in value]
    params, request_id = value.pop("params", {}), value.pop("id", str(index))
    refuse(
        (
            len(given) != 1,
            f"{where}: {' and '.join(given) or 'no prompt'}; give exactly one of {', '.join(_PROMPTS)}",
        ),
        (
            not isinstance(params, dict),
            f"{where}: params is {shown(params)}; give an object of sampling parameters",
        ),
        (
            not isinstance(request_id, str) and not is_whole(request_id),
            f"{where}: id is {shown(request_id)}; give a string or a whole number",
        ),
    )
    try:
        sampling = SamplingParams.from_dict(params, base)
    except InputError as error:
        raise InputError(f"{where}: params: {error}") from error
    try:
        prompt = _prompt(value, given[0])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return InputLine(index, request_id, prompt, sampling, value, where)


def _prompt(value: Mapping[str, Any], name: str) -> Prompt:
    given = value[name]
    if name == "messages":
        check_messages(given)
        return {"messages": given}
    if name == "prompt":
        if not isinstance(given, str):
            raise InputError(f"prompt is {shown(given)}; give a string")
        if not given:
            raise InputError("prompt is empty; give a question")
    elif not isinstance(given, list) or not all(map(is_whole, given)):
        raise InputError("prompt_token_ids is not a list of whole numbers")
    return given


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


def encode_record(record: Mapping[str, Any]) -> bytes:
    """One line, newline included."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a carried field holds a lone surrogate, which only an escape can write
        return json.dumps(record, allow_nan=False).encode() + b"\n"


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
