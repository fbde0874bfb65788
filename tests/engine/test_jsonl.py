"""Input lines, output lines, and the output file across kills, resumes and full disks."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import pytest

from engine.command.append_log import Displaced, json_line
from engine.command.jsonl import InputLine, Origin, changed_params, read_input, repeated_ids
from engine.command.results import ResultsFile
from engine.errors import InputError
from engine.request import Logprob, SamplingParams
from tests.engine.output_lines import record_of


def lines_of(tmp_path, *records, base=None, carry=()) -> list[InputLine]:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return read_input(str(path), base or SamplingParams(), carry)


def test_three_kinds_of_prompt(tmp_path):
    messages = [{"role": "user", "content": "hi"}]
    lines = lines_of(
        tmp_path, {"prompt": "a", "id": "x", "answer": 3}, {"messages": messages, "id": 7}, {"prompt_token_ids": [1, 2]}
    )
    assert [line.prompt for line in lines] == ["a", {"messages": messages}, [1, 2]]
    assert [line.id for line in lines] == ["x", 7, "2"]
    assert [line.index for line in lines] == [0, 1, 2]
    assert lines[0].fields == {"prompt": "a", "answer": 3}
    assert lines[2].where.endswith("in.jsonl:3")


def test_blank_lines_byte_order_mark_and_missing_last_newline(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": "b"}')
    lines = read_input(str(path), SamplingParams())
    assert [(line.index, line.where) for line in lines] == [(0, f"{path}:1"), (1, f"{path}:4")]


def test_params_are_laid_over_the_flags(tmp_path):
    base = SamplingParams(temperature=0.5, max_tokens=9)
    line, plain = lines_of(
        tmp_path,
        {"prompt": "a", "params": {"stop": ["x"], "thinking_token_budget": 4}},
        {"prompt": "a"},
        base=base,
    )
    assert line.params == SamplingParams(temperature=0.5, max_tokens=9, stop=("x",), thinking_token_budget=4)
    assert plain.params == base


def test_null_says_nothing(tmp_path):
    """Wherever it stands: exporters write it for what nobody gave."""
    nothing: dict[str, None] = {field.name: None for field in fields(SamplingParams)}
    base = SamplingParams(temperature=0.5, max_tokens=9, stop=("x",))
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for record in (
        {"prompt": "a", "params": nothing},
        {"prompt": "a", "params": None, "id": None, "messages": None, "prompt_token_ids": None},
        {"prompt": "a", **nothing},
        batch_line({**chat, **nothing, "prompt": None, "max_completion_tokens": None, "top_logprobs": None}),
        {**batch_line({**chat, "stream": None, "tools": None, "response_format": None}), "method": None, "url": None},
    ):
        (line,) = lines_of(tmp_path, record, base=base)
        assert line.params == base and line.id in ("0", "q")
    with pytest.raises(InputError, match=r"in\.jsonl:1: params: unknown parameter 'temprature'"):
        lines_of(tmp_path, {"prompt": "a", "params": {"temprature": None}})


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        *((name, 1, "put it into params, or") for name in ("max_tokens", "temperature", "n", "seed", "min_p")),
        ("stop", ["x"], "put it into params, or"),
        ("thinking_token_budget", 0, "put it into params, or"),
        ("max_completion_tokens", 10, "put it into params as max_tokens, or"),
        ("top_logprobs", 3, "put it into params as logprobs, or"),
        ("thinking_budget", 10, "put it into params as thinking_token_budget, or"),
    ],
)
def test_a_parameter_beside_the_prompt_is_refused_or_carried(tmp_path, name, value, where):
    record = {"prompt": "a", name: value}
    told = rf"in\.jsonl:1: {name} is .* outside params, .*; {where} pass it on as data with --carry {name}$"
    with pytest.raises(InputError, match=told):
        lines_of(tmp_path, record)
    with pytest.raises(InputError, match="outside body"):
        lines_of(tmp_path, {**batch_line({"prompt": "a"}), name: value})
    (line,) = lines_of(tmp_path, record, carry=("other", name))
    assert line.params == SamplingParams() and line.fields == record


def test_every_parameter_is_known_beside_the_prompt(tmp_path):
    for field in fields(SamplingParams):
        with pytest.raises(InputError, match=f"{field.name} is 7 outside params"):
            lines_of(tmp_path, {"prompt": "a", field.name: 7})


def batch_line(body: object, **others: object) -> dict:
    url = "/v1/completions" if isinstance(body, dict) and body.get("prompt") else "/v1/chat/completions"
    return {"custom_id": "q", "method": "POST", "url": url, "body": body, **others}


CHAT = {"model": "gpt-4o", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}


def test_lines_of_openai_batches(tmp_path):
    """As published; Together's have neither method nor url."""
    full = CHAT | {"max_completion_tokens": 20, "temperature": 0.5, "n": 2, "stop": "x", "logit_bias": {"5": -1}}
    full |= {"logprobs": True, "top_logprobs": 4, "thinking_token_budget": 7, "user": "u", "metadata": {"a": "b"}}
    full |= {"stream": False, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}}
    records = [
        batch_line(full, source="mine"),
        batch_line({"model": "m", "prompt": "<|im_start|>a", "max_tokens": 4, "logprobs": 2, "echo": False}),
        batch_line({"prompt": [1, 2]}),
        {"custom_id": "t", "body": CHAT | {"max_tokens": 5, "max_completion_tokens": 5, "logprobs": False}},
    ]
    chat, text, ids, short = lines_of(tmp_path, *records, base=SamplingParams(top_k=9))
    assert chat.prompt == {"messages": CHAT["messages"]}
    bounded = SamplingParams(top_k=9, max_tokens=20, thinking_token_budget=7, stop=("x",), logprobs=4)
    assert chat.params == replace(bounded, temperature=0.5, n=2, logit_bias={5: -1.0})
    assert (text.prompt, text.params) == ({"text": "<|im_start|>a"}, SamplingParams(top_k=9, max_tokens=4, logprobs=2))
    assert (ids.prompt, ids.params) == ([1, 2], SamplingParams(top_k=9))
    assert (short.id, short.params) == ("t", SamplingParams(top_k=9, max_tokens=5))
    for line, record in zip((chat, text, ids, short), records, strict=True):
        assert {"custom_id": line.id, **line.fields} == record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (batch_line(CHAT, method="GET"), "method is 'GET'; give POST"),
        (
            batch_line(CHAT, url="/v1/embeddings"),
            "url is '/v1/embeddings'; give /v1/chat/completions or /v1/completions",
        ),
        (batch_line(CHAT, url=["x"]), r"url is \['x'\]; give"),
        (batch_line(CHAT, url="/v1/completions"), "body has messages; give prompt"),
        (batch_line(CHAT | {"prompt": "a"}), "body has messages and prompt; give prompt"),
        (batch_line({"model": "m"}), "body has no prompt; give messages"),
        (batch_line("x"), "body is 'x'; give the object that the endpoint takes"),
        (batch_line(CHAT, params={"n": 2}), "params stands beside body; put its parameters into body"),
        (batch_line(CHAT, custom_id=[1]), r"custom_id is \[1\]; give a string"),
        (batch_line(CHAT | {"stream": True}), "body: stream is True, which this engine cannot do; leave it out"),
        (batch_line(CHAT | {"tools": [{"type": "function"}]}), "body: tools is .*cannot do; leave it out"),
        (batch_line(CHAT | {"response_format": {"type": "json_object"}}), "body: response_format is .*cannot do"),
        (
            batch_line(CHAT | {"reasoning_effort": "low"}),
            "body: reasoning_effort is 'low', which this engine cannot do",
        ),
        (batch_line({"prompt": "a", "echo": True}), "body: echo is True"),
        (
            batch_line({"prompt": ["a", "b"]}),
            r"body: prompt is \['a', 'b'\]; give a text or token ids, several prompts",
        ),
        (batch_line({"prompt": "a", "best_of": 3}), "body: best_of is 3"),
        (
            batch_line(CHAT | {"max_tokens": 3, "max_completion_tokens": 4}),
            "body: max_tokens and max_completion_tokens",
        ),
        (batch_line(CHAT | {"logprobs": 3}), "body: logprobs is 3; give true or false, and how many as top_logprobs"),
        (batch_line(CHAT | {"top_logprobs": 3}), "body: top_logprobs is 3; set logprobs to true beside it"),
        (batch_line(CHAT | {"temprature": 1}), "body: unknown parameter 'temprature'"),
        (batch_line(CHAT | {"temperature": "hot"}), "body: temperature is 'hot'"),
        (batch_line({"messages": []}), "messages is not a non-empty list"),
        ({"body": CHAT}, "no prompt; give exactly one of prompt, messages, prompt_token_ids"),
    ],
)
def test_bad_lines_of_batches(tmp_path, record, message):
    with pytest.raises(InputError, match=rf"in\.jsonl:1: {message}"):
        lines_of(tmp_path, record)


def test_a_line_with_a_prompt_is_no_batch_line(tmp_path):
    """Whatever columns a data set has beside it."""
    record = {"prompt": "a", "custom_id": "q", "body": {"messages": []}, "url": 3}
    (line,) = lines_of(tmp_path, record)
    assert (line.id, line.prompt, line.fields) == ("0", "a", record)


def test_repeated_ids_are_told(tmp_path):
    """All run: resuming goes by index."""
    assert repeated_ids(lines_of(tmp_path, {"prompt": "a"}, {"prompt": "a", "id": 0}, {"prompt": "a"})) is None
    records = [{"prompt": "a", "id": "x"}, {"prompt": "b"}, {"prompt": "c", "id": "1"}, {"prompt": "d", "id": "x"}]
    lines = lines_of(tmp_path, *records, batch_line({"prompt": "a"}, custom_id="x"))
    path = tmp_path / "in.jsonl"
    assert repeated_ids(lines).startswith(f"{path}:3: id '1' is also that of {path}:2; 3 of 5 lines repeat an id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a", "x": 1' + "0" * 5000 + "}", "bad JSON: a whole number has more than 4,300 digits"),
        (
            '{"prompt": "a", "params": {"max_tokens": 1' + "0" * 400 + "}}",
            "params: max_tokens is <a whole number of about 401",
        ),
        (
            '{"prompt": "a", "params": {"temperature": 1' + "0" * 400 + "}}",
            "params: temperature is <a whole number of about 401",
        ),
        ("nonsense", "bad JSON"),
        ("[1]", "a JSON list, not an object"),
        ('{"prompt": "a"', "bad JSON"),
        ('{"prompt": "a", "x": NaN}', "bad JSON: NaN is no JSON number"),
        ('{"prompt": "a", "x": [-1e999]}', "bad JSON: -1e999 is out of range"),
        ('{"prompt": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "bad JSON: .*recursion"),
        ('{"prompt": ""}', "prompt is empty"),
        ('{"prompt": "a", "prompt": "b"}', "bad JSON: field 'prompt' occurs twice"),
        ("{}", "no prompt; give exactly one of prompt, messages, prompt_token_ids"),
        ('{"prompt": "a", "messages": []}', "prompt and messages; give exactly one"),
        ('{"prompt": 3}', "prompt is 3; give a string"),
        ('{"prompt_token_ids": [1, "2"]}', "prompt_token_ids is not a list of whole numbers"),
        ('{"prompt_token_ids": [true]}', "prompt_token_ids is not a list of whole numbers"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\].content"),
        ('{"prompt": "a", "id": [1]}', r"id is \[1\]"),
        ('{"prompt": "a", "params": [1]}', r"params is \[1\]"),
        (
            '{"prompt": "a", "params": {"temprature": 1}}',
            "params: unknown parameter 'temprature'; known: .*temperature",
        ),
        ('{"prompt": "a", "params": {"temperature": -1}}', "params: temperature is -1"),
        ('{"prompt": "a", "params": {"thinking_token_budget": 1.5}}', "params: thinking_token_budget is 1.5"),
        (
            '{"prompt": "a", "params": {"min_thinking_tokens": 5, "thinking_token_budget": 4}}',
            "params: min_thinking_tokens 5 is above thinking_token_budget 4",
        ),
        ('{"prompt": "\xff"}', "bad JSON: 'utf-8' codec"),
    ],
)
def test_bad_lines_name_file_line_and_field(tmp_path, text, message):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n' + text.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=rf"in\.jsonl:2: {message}") as caught:
        read_input(str(path), SamplingParams())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": ["x" * 10_000]},
        {"prompt": "a", "params": ["x" * 10_000]},
        {"prompt": "a", "id": ["x" * 10_000]},
        {"prompt": "a", "params": {"seed": "x" * 10_000}},
        {"prompt": "a", "params": {"stop": {"x" * 10_000: 1}}},
        {"prompt": "a", "params": {"x" * 10_000: 1}},
        {"prompt": "a", "params": {"thinking_format": ["x" * 10_000]}},
    ],
)
def test_a_value_of_any_size_is_named_briefly(tmp_path, record):
    with pytest.raises(InputError, match=r"in\.jsonl:1: ") as caught:
        lines_of(tmp_path, record)
    assert len(str(caught.value)) < 1000


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="<stdin>: is closed"):
        read_input("-", SamplingParams())


def test_empty_and_missing_input(tmp_path):
    (tmp_path / "in.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no requests"):
        read_input(str(tmp_path / "in.jsonl"), SamplingParams())
    with pytest.raises(InputError, match=r"no\.jsonl: cannot be read: No such file"):
        read_input(str(tmp_path / "no.jsonl"), SamplingParams())


def test_output_line_is_the_contract(tmp_path):
    (line,) = lines_of(tmp_path, {"prompt": "é", "id": "q", "k": [1], "params": {"seed": 3}})
    record = json.loads(json_line(record_of(line)))
    assert record == {
        "id": "q",
        "index": 0,
        "input": {"prompt": "é", "k": [1]},
        "model": "m",
        "engine": {},
        "params": {"seed": 3},
        "prompt_token_ids": [5],
        "outputs": [
            {
                "index": 0,
                "text": "t",
                "reasoning": "r",
                "answer": "a",
                "token_ids": [1, 2],
                "forced": [1],
                "finish_reason": "stop",
                "thinking": {"tokens": 1, "forced_tokens": 1, "extensions": 0, "stop_reason": "budget"},
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "cached_tokens": 0,
            "completion_tokens": 2,
            "reasoning_tokens": 1,
            "forced_tokens": 1,
        },
        "timing": {"queue_s": 0.0, "ttft_s": 0.1, "total_s": 0.2},
    }


def test_output_line_with_logprobs_and_error(tmp_path):
    (line,) = lines_of(tmp_path, {"prompt": "a"})
    logprobs = [Logprob(1, -0.5, ((1, -0.5), (2, float("-inf")))), Logprob(2, -3.0, forced=True)]
    record = record_of(line, logprobs=logprobs, cumulative_logprob=-0.5, error="logits were NaN")
    sample = json.loads(json_line(record))["outputs"][0]
    assert sample["logprobs"] == [
        {"token_id": 1, "logprob": -0.5, "forced": False, "top": [[1, -0.5], [2, None]]},
        {"token_id": 2, "logprob": -3.0, "forced": True, "top": []},
    ]
    assert (sample["cumulative_logprob"], sample["error"]) == (-0.5, "logits were NaN")


def test_changed_params_are_json():
    params = SamplingParams(stop=("a",), logit_bias={3: 1.0}, thinking_format={"opener": "x"})
    assert changed_params(params) == {"stop": ["a"], "logit_bias": {"3": 1.0}, "thinking_format": {"opener": "x"}}


def test_lone_surrogates_in_carried_fields_are_escaped(tmp_path):
    (line,) = lines_of(tmp_path, {"prompt": "a", "raw": "\ud800é"})
    assert json.loads(json_line(record_of(line)))["input"]["raw"] == "\ud800é"


def test_a_reader_by_lines_breaks_no_row(tmp_path):
    """Text with whatever str.splitlines splits at comes back whole, also in resuming."""
    ends = "a" + "b".join(c for c in map(chr, range(0x3000)) if len(f"x{c}x".splitlines()) > 1)
    assert {"\n", "\x1c", "\x85", "\u2028", "\u2029"} <= set(ends)
    lines = lines_of(tmp_path, {"prompt": ends, "id": ends, ends: [ends]}, {"prompt": "é日"})
    out = tmp_path / "out.jsonl"
    run_file(out, lines, [1, 0])
    for reader in (str.splitlines, lambda text: text.removesuffix("\n").split("\n")):
        first, second = map(json.loads, reader(out.read_bytes().decode()))
        assert (first["id"], first["input"]) == (ends, {"prompt": ends, ends: [ends]})
        assert second["input"] == {"prompt": "é日"}
    assert "é日".encode() in out.read_bytes()  # what breaks nothing stays readable
    assert run_file(out, lines, [], resume=True) == []


def run_file(path, lines, order, resume=False, overwrite=False) -> list[str]:
    """Writes what is not finished, in the order given."""
    results = ResultsFile(str(path))
    warnings = results.prepare(lines, Origin("m", {}), resume, overwrite)
    results.open()
    for i in order:
        if i not in results.finished:
            results.write(record_of(lines[i]))
    results.close(order=True)
    return warnings


def indices(path) -> list[int]:
    return [json.loads(raw)["index"] for raw in path.read_bytes().splitlines()]


def test_lines_are_put_into_input_order(tmp_path):
    lines = lines_of(tmp_path, *({"prompt": str(i)} for i in range(5)))
    out = tmp_path / "out.jsonl"
    run_file(out, lines, [3, 0, 4, 1, 2])
    assert indices(out) == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_lines_stand_in_the_file_as_soon_as_they_are_written(tmp_path):
    lines = lines_of(tmp_path, *({"prompt": str(i)} for i in range(3)))
    results = ResultsFile(str(tmp_path / "out.jsonl"))
    results.prepare(lines, Origin("m", {}), resume=False, overwrite=False)
    assert not (tmp_path / "out.jsonl").exists()
    results.open()
    for i in (2, 0):
        results.write(record_of(lines[i]))
        assert indices(tmp_path / "out.jsonl")[-1] == i
    results.close(order=False)
    assert indices(tmp_path / "out.jsonl") == [2, 0]


def test_resume_skips_what_is_there(tmp_path):
    lines = lines_of(tmp_path, *({"prompt": str(i)} for i in range(4)))
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(json_line(record_of(lines[i])) for i in (2, 0)))
    results = ResultsFile(str(out))
    assert results.prepare(lines, Origin("m", {}), resume=True, overwrite=False) == []
    assert results.finished == {0, 2}
    results.release()
    assert run_file(out, lines, [3, 1], resume=True) == []
    assert indices(out) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_runs_again_with_a_warning(tmp_path, cut):
    lines = lines_of(tmp_path, *({"prompt": str(i)} for i in range(3)))
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(json_line(record_of(lines[i])) for i in (1, 0))[:-cut])
    (warning,) = run_file(out, lines, [2, 0], resume=True)
    assert "out.jsonl:2: the last line is torn" in warning
    assert indices(out) == [0, 1, 2]


def test_failed_requests_run_again(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"}, {"prompt": "1"})
    out = tmp_path / "out.jsonl"
    out.write_bytes(json_line(record_of(lines[0], finish_reason="error")) + json_line(record_of(lines[1])))
    run_file(out, lines, [0], resume=True)
    assert indices(out) == [0, 1]
    assert [json.loads(raw)["outputs"][0]["finish_reason"] for raw in out.read_text().splitlines()] == ["stop"] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "other"}, 'was made with id "other"'),
        ({"input": {"prompt": "other"}}, "was made with input"),
        ({"params": {"seed": 1}}, "was made with params"),
        ({"model": "other"}, 'was made with model "other" and .* now has "m"'),
        ({"index": 9}, "answers request 9 and the input has 2"),
    ],
)
def test_resume_refuses_what_was_made_otherwise(tmp_path, change, message):
    lines = lines_of(tmp_path, {"prompt": "0"}, {"prompt": "1"})
    out = tmp_path / "out.jsonl"
    before = json_line({**record_of(lines[0]), **change})
    out.write_bytes(before)
    with pytest.raises(InputError, match=rf"out\.jsonl:1: {message}"):
        run_file(out, lines, [1], resume=True)
    assert out.read_bytes() == before


def test_resume_refuses_a_broken_line_in_the_middle(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"}, {"prompt": "1"})
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"broken\n" + json_line(record_of(lines[0])))
    with pytest.raises(InputError, match=r"out\.jsonl:1: is no line of this program"):
        run_file(out, lines, [1], resume=True)


def test_an_existing_file_is_not_overwritten_by_accident(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"})
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    with pytest.raises(InputError, match="--resume goes on with it, --overwrite starts it anew"):
        run_file(out, lines, [0])
    assert out.read_text() == "precious\n"
    run_file(out, lines, [0], overwrite=True)
    assert indices(out) == [0]


def test_unwritable_output(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"})
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        run_file(tmp_path / "nowhere" / "out.jsonl", lines, [0])
    with pytest.raises(InputError, match=r"cannot be written: Is a directory|cannot be written: Not a directory"):
        run_file(tmp_path / "in.jsonl" / "out.jsonl", lines, [0])
    with pytest.raises(InputError, match="is a folder"):
        run_file(tmp_path, lines, [0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"})
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written: Permission denied"):
            run_file(tmp_path / "out.jsonl", lines, [0])
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_is_an_error(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"})
    results = ResultsFile("/dev/full")
    results.prepare(lines, Origin("m", {}), resume=False, overwrite=False)
    results.open()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        results.write(record_of(lines[0]))


@pytest.mark.parametrize("resume", [False, True])
def test_one_process_writes_an_output(tmp_path, resume):
    """By whatever name, before its model loads; and one that looked when nothing was there comes too late."""
    lines = lines_of(tmp_path, {"prompt": "0"}, {"prompt": "1"})
    out, other, link = (tmp_path / name for name in ("out.jsonl", "other.jsonl", "link.jsonl"))
    first, late = ResultsFile(str(out)), ResultsFile(str(out))
    for results in (first, late):
        results.prepare(lines, Origin("m", {}), resume=False, overwrite=False)
    first.open()
    first.write(record_of(lines[1]))
    os.link(out, other)
    link.symlink_to(out)
    for name in (out, other, link):
        with pytest.raises(InputError, match=rf"{name.name}: another process \({os.getpid()}\) is writing it"):
            ResultsFile(str(name)).prepare(lines, Origin("m", {}), resume=resume, overwrite=not resume)
    with pytest.raises(InputError, match="is writing it"):
        late.open()
    first.write(record_of(lines[0]))
    first.close(order=True)
    with pytest.raises(InputError, match="another process has written it meanwhile"):
        late.open()
    assert indices(out) == [0, 1] and indices(other) == [1, 0]


def away(out):
    out.unlink()


def away_with_its_folder(out):
    shutil.rmtree(out.parent)


def moved(out):
    out.rename(out.with_name("moved"))


def moved_with_its_folder(out):
    out.parent.rename(out.parent.with_name("moved"))


def another_file(out):
    out.unlink()
    out.write_text("precious\n")


def a_folder(out):
    out.unlink()
    out.mkdir()


@pytest.mark.parametrize("writes", [False, True], ids=["at the end", "before a line"])
@pytest.mark.parametrize("how", [away, away_with_its_folder, moved, moved_with_its_folder, another_file, a_folder])
def test_an_output_that_loses_its_name_keeps_its_lines(tmp_path, how, writes):
    lines = lines_of(tmp_path, *({"prompt": str(i)} for i in range(3)))
    out = tmp_path / "folder" / "out.jsonl"
    out.parent.mkdir()
    results = ResultsFile(str(out))
    results.prepare(lines, Origin("m", {}), resume=False, overwrite=False)
    results.open()
    for i in (2, 0):
        results.write(record_of(lines[i]))
    how(out)
    if writes:
        with pytest.raises(OSError, match="was removed, moved or replaced"):
            results.write(record_of(lines[1]))
    with pytest.raises(Displaced, match="its lines are in ") as told:
        results.close(order=True)
    place = Path(str(told.value).partition("its lines are in ")[2])
    assert indices(place) == [2, 0]
    assert (place == out) == (how in (away, away_with_its_folder))
    assert how is not another_file or out.read_text() == "precious\n"
    assert run_file(place, lines, [1], resume=True) == [] and indices(place) == [0, 1, 2]


def test_a_disk_without_room_for_a_second_copy_leaves_the_lines(tmp_path):
    """A real one: ordering needs room beside the lines. With it, --resume puts them into order."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        lines = lines_of(tmp_path, *({"prompt": "x" * 10_000, "number": i} for i in range(4)))
        out = disk / "out.jsonl"
        with pytest.raises(
            OSError, match=r"cannot put the lines into input order: No space left on device; .*--resume does it"
        ):
            run_file(out, lines, [3, 1, 0, 2])
        assert indices(out) == [3, 1, 0, 2] and [p.name for p in disk.iterdir()] == ["out.jsonl"]
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        assert run_file(out, lines, [], resume=True) == [] and indices(out) == [0, 1, 2, 3]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_file_names_that_cannot_be(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"})
    for name, reason in (("a" * 300, "File name too long"), ("", "is a folder")):
        with pytest.raises(InputError, match=reason):
            run_file(str(tmp_path / name) if name else name, lines, [0])


def test_output_through_a_link_keeps_the_link(tmp_path):
    lines = lines_of(tmp_path, {"prompt": "0"}, {"prompt": "1"})
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    run_file(tmp_path / "link.jsonl", lines, [1, 0])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert indices(tmp_path / "real.jsonl") == [0, 1]


def test_pipes_are_read_and_what_has_no_line_ends_is_refused(tmp_path, monkeypatch):
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"prompt": "a"}\n',))
    writer.start()
    assert [line.prompt for line in read_input(str(pipe), SamplingParams())] == ["a"]
    writer.join()
    monkeypatch.setattr("engine.input_file.MAX_LINE_BYTES", 1000)
    with pytest.raises(InputError, match="/dev/zero:1: the line is longer than 1,000 bytes; split it"):
        read_input("/dev/zero", SamplingParams())


def test_an_output_in_a_circle_of_links_is_bad_input(tmp_path):
    out = tmp_path / "out.jsonl"
    out.symlink_to(out)
    with pytest.raises(InputError, match="cannot be written: Too many levels of symbolic links; choose another"):
        ResultsFile(str(out)).prepare([], Origin("m", {}), resume=False, overwrite=False)
