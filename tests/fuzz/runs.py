"""Targets: evaluation runs, replies of endpoints, and what trainer and curation read."""

import json
import re
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bench.evaluation import browse, compare, grade, grid, run, status, tasks
from bench.evaluation.commands import write_report
from curate.config import load_config as load_curation
from curate.grading import AnswerKind, Grader, Item
from curate.models.asking import Ask, EndpointDown, Sampling
from curate.models.client import EndpointConfig
from curate.models.endpoint import EndpointModel
from curate.models.store import Store
from curate.sources.own import Own
from curate.stages.collect import collect_source
from engine.text.tokenizer import Tokenizer
from tests.curate.source_rows import ROWS
from tests.fuzz import checkpoint
from tests.fuzz.contract import SECONDS, Broken, promise
from tests.fuzz.server import Reply, Server
from tests.fuzz.target import Target
from tests.fuzz.values import INPUTS, FileCase, file_bytes, files
from train.config import Data
from train.config import load_config as load_training
from train.data import read_dataset

GRID = {"model": str(checkpoint.folder()), **INPUTS["grid"]}


@cache
def _evaluated() -> Path:
    folder = checkpoint.scratch() / "evaluated"
    run.run(grid.from_values(GRID), folder)
    _read(folder)
    return folder


def _read(folder: Path) -> None:
    grade.grade(folder)
    write_report(folder)


_LOGS = (("samples.jsonl", 0), ("run.json", None), ("grades.jsonl", 1), ("samples.jsonl", -1))
"""Files of a run and the line that is spoiled, a sample's and a search's; None: the whole file."""


def damaged(case: tuple[int, FileCase]) -> Path:
    """A copy of a finished run of which one file is another."""
    (name, line), copy = _LOGS[case[0]], checkpoint.scratch() / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(_evaluated(), copy)
    rows = (copy / name).read_bytes().splitlines()
    if line is None:
        rows = [file_bytes(json.loads(b"\n".join(rows)), case[1])]
    else:
        rows[line] = file_bytes(json.loads(rows[line]), case[1])
    (copy / name).write_bytes(b"\n".join((*rows, b"")))
    return copy


def _log(case: tuple[int, FileCase]) -> None:
    copy = damaged(case)
    for action in (status.text, write_report, browse.write_page, grade.grade):
        promise(action, copy, also=(OSError,))
    promise(compare.text, _evaluated(), copy, also=(OSError,))
    promise(run.run, grid.from_values(GRID), copy, also=(OSError,))


def log_cases() -> st.SearchStrategy[tuple[int, FileCase]]:
    """Which file, and how it is spoiled."""

    def of(which: int) -> st.SearchStrategy[tuple[int, FileCase]]:
        name, line = _LOGS[which]
        text = (_evaluated() / name).read_text()
        return st.tuples(st.just(which), files(json.loads(text if line is None else text.splitlines()[line])))

    return st.integers(0, len(_LOGS) - 1).flatmap(of)


_PIECES = (
    *"0123456789xyABCi+-*/^_=<>()[]{}|:;,.!%$ \n",
    *(r"\frac", r"\sqrt", r"\text{", r"\{", r"\}", r"\left", r"\right", r"\cup", r"\le", r"\pm", r"\infty", r"\pi"),
    *(r"\begin{pmatrix}", r"\end{pmatrix}", r"\\", "&", r"\boxed{", r"\overline", r"\log", r"\sin", r"^\circ", r"\in"),
    *(
        r"\mathbb{R}",
        r"\choose",
        r"\pmod",
        r"\emptyset",
        "and ",
        " or ",
        "cm",
        " base ",
        "Answer: ",
        "**",
        "²",
        "½",
        "\0",
    ),
)
_answers = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join) | st.text(max_size=40)
_KINDS = ("latex", "number", "choice", "auto", "text")


@cache
def _grader() -> Grader:
    return Grader(time_limit_s=SECONDS / 2)


def _answer(case: tuple[str, str, str]) -> None:
    """Two answers have a verdict, the same both ways round, and no grading process dies or errs of them."""
    grades = [
        promise(_grader().grade, [Item(f"\\boxed{{{given}}}", gold, AnswerKind(case[2]))])[0]
        for gold, given in permutations(case[:2])
    ]
    broken = [g.rule for g in grades if re.search("grader_(timeout|memory|crash|error)", g.rule)]
    if broken:
        raise Broken(f"{broken[0]}: {[g.detail for g in grades]}")


def _grid(case: FileCase) -> None:
    path = checkpoint.scratch() / "grid.yaml"
    path.write_bytes(file_bytes(GRID, case))
    promise(grid.load, path)


REPLY, RECORDS = INPUTS["reply"], INPUTS["records"]
_HEADERS = st.dictionaries(
    st.sampled_from(("Retry-After", "Content-Type", "Content-Encoding", "Location", "X")),
    st.sampled_from(
        ("gzip", "deflate", "br", "1", "-1", "²", "1e999", "text/html; charset=nothing", "/v1", "x" * 9000)
    ),
    max_size=2,
)
_replies = st.builds(
    Reply,
    body=files(REPLY).map(lambda case: file_bytes(REPLY, case))
    | files({"error": {"message": "m", "code": 1}}).map(lambda case: file_bytes({"error": {"message": "m"}}, case)),
    status=st.sampled_from((200, 200, 200, 204, 301, 307, 400, 401, 404, 429, 500, 599)),
    headers=_HEADERS,
    kind=st.sampled_from(("plain",) * 12 + ("short", "closed", "raw", "bomb", "endless")),
)


_REPLIES = (Reply(b"{}", 429, {"Retry-After": "²"}), Reply(b"", kind="bomb"), Reply(b"", kind="endless"))


@cache
def _server() -> Server:
    return Server()


def _curation_reply(case: Reply) -> None:
    url = _server().answer(case)
    config = EndpointConfig(model="m", base_url=url, max_tries=1, timeout_s=8.0)
    path = checkpoint.scratch() / "store.sqlite"
    path.unlink(missing_ok=True)
    with Store(path) as store:
        ask = Ask("1", ({"role": "user", "content": "1 + 2?"},), Sampling(), "v1")
        promise(lambda: list(EndpointModel(config, store).ask([ask])), also=(EndpointDown,))


def _evaluation_reply(case: Reply) -> None:
    endpoint = {"url": _server().answer(case), "model": "m", "thinking_fields": False, "retries": 0, "timeout_s": 8.0}
    what = {**INPUTS["asked_grid"], "endpoint": endpoint}
    folder = checkpoint.scratch() / "asked"
    shutil.rmtree(folder, ignore_errors=True)
    promise(run.run, grid.from_values(what), folder)
    if (folder / "samples.jsonl").exists():
        promise(_read, folder)
        promise(browse.write_page, folder)


_MANY = "\n".join(f"b{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 10))
_yaml = st.sampled_from([*INPUTS["yaml"], f"run: &a0 [x, x]\n{_MANY}"]) | st.text(
    "ab:-*&!|>?{}[],#\n '\"%<=.1", max_size=30
)


def _yaml_file(base: Any, read: Any, case: tuple[FileCase, str | None, Sequence[str]]) -> None:
    path = checkpoint.scratch() / "config.yaml"
    path.write_bytes(file_bytes(base, case[0]) if case[1] is None else case[1].encode())
    promise(read, path, *([list(case[2])] if case[2] else []))


_overrides = st.lists(
    st.builds(
        "{}{}{}".format, st.sampled_from(("data", "optim.lr", "run", "lora.rank", "a.b")), st.sampled_from("=.:"), _yaml
    ),
    max_size=2,
)


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.load(checkpoint.folder())


def _records(case: tuple[int, FileCase, str]) -> None:
    path = checkpoint.scratch() / "data.jsonl"
    path.write_bytes(file_bytes(RECORDS[case[0]], case[1]) + b"\n")
    promise(read_dataset, (str(path),), Data(train=(str(path),), loss=case[2], max_tokens=64), _tokenizer(), 300)  # type: ignore[arg-type]


_record_cases = st.integers(0, 3).flatmap(
    lambda i: st.tuples(st.just(i), files(RECORDS[i]), st.sampled_from(("assistant", "all")))
)
_SOURCES = list(ROWS)


def _rows(case: tuple[int, FileCase]) -> None:
    kind, path = _SOURCES[case[0]], checkpoint.scratch() / "rows.jsonl"
    path.write_bytes(file_bytes(ROWS[kind][0], case[1]) + b"\n" + json.dumps(ROWS[kind][-1]).encode())
    promise(collect_source, kind(path=str(path)), lambda rows: None)


_row_cases = st.integers(0, len(_SOURCES) - 1).flatmap(lambda i: st.tuples(st.just(i), files(ROWS[_SOURCES[i]][0])))


_ROW = {"question": "Which?", "answer": "B", "options": ["red", "green"], "id": 1}
_HEAD = b"\xef\xbb\xbfid,question,answer,options\n"
_csv = st.text("ab1,\"'\n\r;\0é[]", max_size=40).map(lambda text: _HEAD + text.encode())
_own = st.tuples(st.just("csv"), _csv | st.binary(max_size=40)) | st.tuples(
    st.sampled_from(("json", "jsonl")), files(_ROW).map(lambda case: file_bytes(_ROW, case))
)


def _questions(case: tuple[str, bytes]) -> None:
    """One's own questions, as a task and as a source."""
    path = checkpoint.scratch() / f"own.{case[0]}"
    path.write_bytes(b"[" + case[1] + b"]" if case[0] == "json" else case[1])
    promise(lambda: tasks.load(tasks.TaskSpec(name="own", path=str(path))))
    promise(collect_source, Own(path=str(path)), lambda rows: None)


def _yaml_target(name: str, base: Any, read: Any, overrides: bool = False) -> Target:
    cases = st.tuples(files(base), st.none() | _yaml, _overrides if overrides else st.just([]))
    return Target(name, cases, lambda case: _yaml_file(base, read, case))


_BUDGET = ("identity", "grid", "methods", 0, "budgets", 0)
_DAMAGE = (
    (0, (((("task",), "set", "0"),), ())),
    (1, (((_BUDGET, "set", "0"),), ())),
    *((file, ((((), "set", "[" * 5_000),), ())) for file in range(len(_LOGS))),
)

TARGETS = (
    Target("evaluation log", log_cases(), _log, quick=4, known=_DAMAGE),
    Target("answers", st.tuples(_answers, _answers, st.sampled_from(_KINDS)), _answer),
    Target("evaluation grid", files(GRID), _grid, known=((((("tasks",), "set", '"\\ud800"'),), ()),)),
    Target("reply to curation", _replies, _curation_reply, quick=4, known=_REPLIES),
    Target("reply to evaluation", _replies, _evaluation_reply, quick=3, known=_REPLIES),
    _yaml_target("training config", INPUTS["training"], load_training, overrides=True),
    Target("training data", _record_cases, _records),
    _yaml_target("curation config", INPUTS["curation"], load_curation),
    Target("curation rows", _row_cases, _rows),
    Target("own questions", _own, _questions),
)
