"""Targets: what a caller asks: parameters, formats, flags, lines, and the output file that is gone on with."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from hypothesis import strategies as st

from engine.command.arguments import parse
from engine.command.jsonl import InputLine, Origin, output_record, read_input, repeated_ids
from engine.command.results import ResultsFile
from engine.config import EngineConfig
from engine.request import SamplingParams
from tests.fuzz import checkpoint
from tests.fuzz.contract import promise
from tests.fuzz.target import Target
from tests.fuzz.values import INPUTS, STRINGS, FileCase, edited, edits, file_bytes, files, texts

PARAMS, FORMAT, LINES = INPUTS["parameters"], INPUTS["format"], INPUTS["lines"]
SHORT = SamplingParams(max_tokens=2)


def generate(prompt: Any, params: SamplingParams) -> None:
    """Run it where it ends soon."""
    engine = checkpoint.engine()
    promise(engine.prepare, prompt, params)
    if params.n <= 4 and (params.max_tokens or 99) <= 64:
        promise(engine.generate, [prompt], params)


def _params(case: Any) -> None:
    if not isinstance(case, dict):
        return
    params = promise(SamplingParams.from_dict, case)
    if params is not None:
        generate("1 + 1?", params)


def _format(case: FileCase) -> None:
    text = file_bytes(FORMAT, case).decode("utf-8", "replace")
    for spec in (text, _parsed(text)):
        params = promise(
            SamplingParams.from_dict, {"thinking_format": spec, "max_tokens": 40, "thinking_token_budget": 3}
        )
        if params is not None:
            generate("1 + 1?", params)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_ASTRAY = (("max_tokens",), ("body",), ("custom_id",), ("body", "tools"), ("body", "prompt"), ("body", "messages"))
"""What input lines are looked through for although a good one may lack it."""


def _lines(case: Sequence[tuple[int, FileCase]]) -> None:
    path = checkpoint.scratch() / "lines.jsonl"
    path.write_bytes(b"\n".join(file_bytes(LINES[which], one) for which, one in case))
    lines = promise(read_input, str(path), SamplingParams()) or ()
    repeated_ids(lines)
    for line in lines:
        generate(line.prompt, line.params)


def _flags(case: Sequence[str]) -> None:
    arguments = promise(parse, case)
    if arguments is not None:
        promise(arguments.engine_config)
        promise(arguments.sampling_params, SamplingParams())


_FLAGS = [f"--{name.replace('_', '-')}" for name in {*PARAMS, *EngineConfig.__dataclass_fields__}]
_words = st.sampled_from(
    [*_FLAGS, "--prompt", "--input", "--output", "--resume", "--no-resume", "-", "--", "-1", "1", "x"]
)


@cache
def _finished() -> tuple[list[InputLine], bytes]:
    """Lines, and the output file that holds their answers."""
    path = checkpoint.scratch() / "input.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES[1:4]))
    lines = read_input(str(path), SamplingParams())
    outputs = checkpoint.engine().generate([line.prompt for line in lines], [line.params for line in lines])
    records = [output_record(line, output, _ORIGIN) for line, output in zip(lines, outputs, strict=True)]
    return lines, b"".join(json.dumps(record).encode() + b"\n" for record in records)


_ORIGIN = Origin.of("tiny", EngineConfig(device="cpu"))


def _resume(case: tuple[int, FileCase]) -> None:
    which, one = case
    lines, data = _finished()
    rows = data.splitlines(keepends=True)
    rows[which] = file_bytes(json.loads(rows[which]), one) + b"\n"
    path = checkpoint.scratch() / "output.jsonl"
    path.write_bytes(b"".join(rows))
    results = ResultsFile(str(path))
    if promise(results.prepare, lines, _ORIGIN, True, False) is not None:
        results.open()
        for line in (line for line in lines if line.index not in results.finished):
            results.write({"index": line.index})
        results.close(order=True)
        assert [json.loads(row)["index"] for row in path.read_bytes().splitlines()] == [0, 1, 2]


def _resume_cases() -> st.SearchStrategy[tuple[int, FileCase]]:
    record = json.loads(_finished()[1].splitlines()[0])
    return st.tuples(st.integers(0, 2), files(record))


def _prompt(case: str) -> None:
    generate(case, SHORT)
    generate({"messages": [{"role": case, "content": case}, {"role": "user", "content": "1", case: [case]}]}, SHORT)


def _python_params(case: dict[str, str]) -> None:
    _params({name: eval(text) for name, text in case.items()})


TARGETS = (
    Target("parameters", edits(PARAMS, most=4), lambda case: _params(_parsed(edited(PARAMS, case)))),
    Target(
        "parameters in Python",
        st.dictionaries(st.sampled_from(list(PARAMS)), st.sampled_from(INPUTS["objects"]), max_size=3),
        _python_params,
    ),
    Target("thinking format", files(FORMAT), _format),
    Target(
        "input lines",
        st.lists(
            st.integers(0, len(LINES) - 1).flatmap(lambda i: st.tuples(st.just(i), files(LINES[i], _ASTRAY))),
            min_size=1,
            max_size=2,
        ),
        _lines,
    ),
    Target("flags", st.lists(_words | texts, max_size=6), _flags, quick=6),
    Target("prompt", st.sampled_from([s * k for s in STRINGS for k in (1, 30)]) | st.text(), _prompt, quick=8),
    Target("resume file", st.deferred(_resume_cases), _resume, known=((2, (((("outputs", 0), "set", "null"),), ())),)),
)
