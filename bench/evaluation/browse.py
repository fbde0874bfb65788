"""The samples of a run as one static HTML page: questions, traces with forced tokens marked, answers, verdicts.

The page loads nothing and runs no script but its own filter; every text of a data set or a model is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.evaluation.extraction import Mode
from bench.evaluation.grade import Graded, GraderName, load_grid, load_tasks, rows_with_grades
from bench.evaluation.log import read_run
from bench.evaluation.prompts import question_text
from engine import InputError
from engine.model.checkpoint import resolve
from engine.text.tokenizer import Tokenizer
from engine.whole_file import write_whole

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
details { border: 1px solid #ddd; border-radius: 6px; margin: .4rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f7f7f7; padding: .6rem; border-radius: 4px; }
mark { background: #ffd54a; border-radius: 2px; }
.right { color: #1b7f3b; font-weight: 600; } .wrong { color: #b3261e; font-weight: 600; } .none { color: #777; }
.small { color: #666; font-size: 13px; }
"""
_SCRIPT = """
const show = () => { const c = document.getElementById('condition').value, v = document.getElementById('verdict').value;
  for (const d of document.querySelectorAll('details.sample'))
    d.hidden = (c && d.dataset.condition !== c) || (v && d.dataset.verdict !== v);
  for (const s of document.querySelectorAll('section')) s.hidden = !s.querySelector('details:not([hidden])'); };
for (const id of ['condition', 'verdict']) document.getElementById(id).addEventListener('change', show);
"""


def write_page(folder: Path, grader: GraderName = "s1-engine", mode: Mode = "answer", problems: int = 50) -> Path:
    """`samples.html` of a run: the first `problems` problems of each task, under every condition. Returns the file."""
    grid, tasks = load_grid(folder), load_tasks(folder)
    decode = None
    if grid.endpoint is None:
        try:
            decode = Tokenizer.load(resolve(grid.model)).decode
        except InputError as error:
            raise InputError(f"the tokenizer of {grid.model} is needed to mark forced tokens: {error}") from error
    order = {c.label: i for i, c in enumerate(grid.conditions())}
    shown: dict[tuple[str, str], list[tuple[Mapping[str, Any], Graded]]] = {}
    for task in tasks.values():
        for problem in task.problems[:problems]:
            shown[task.name, problem.id] = []
    for row, graded in rows_with_grades(folder, grader, mode):
        if (row["task"], row["problem"]) in shown:
            shown[row["task"], row["problem"]].append((row, graded))
    parts = []
    for task in tasks.values():
        parts.append(f"<h2>{html.escape(task.name)}</h2>")
        if task.private:
            parts.append("<p class=small>Questions and responses of this task are not kept.</p>")
        for problem in task.problems[:problems]:
            rows = sorted(shown[task.name, problem.id], key=lambda r: (order[r[0]["condition"]], r[0]["sample"]))
            question = "" if task.private else question_text(problem)
            group = f"<span class=small>{html.escape(problem.group)}</span>"
            parts.append(f"<section><h3>{html.escape(problem.id)} {group}</h3>")
            parts.append(f"<pre>{html.escape(question)}</pre>" if question else "")
            parts += [*(_sample(row, graded, decode) for row, graded in rows), "</section>"]
    title = f"{html.escape(read_run(folder)['about']['name'])}: samples"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p class=small>First {problems} problems of each task. <mark>Marked</mark>: written by the "
        f"engine, not drawn by the model.</p>{_filters(list(order))}{''.join(parts)}<script>{_SCRIPT}</script></html>\n"
    )
    file = folder / "samples.html"
    write_whole(file, page)
    return file


def _filters(conditions: Sequence[str]) -> str:
    options = "".join(f"<option>{html.escape(label)}</option>" for label in conditions)
    return (
        f"<p><select id=condition><option value=''>all conditions</option>{options}</select> "
        "<select id=verdict><option value=''>right and wrong</option><option>right</option><option>wrong</option>"
        "<option>ungraded</option></select></p>"
    )


def _sample(row: Mapping[str, Any], graded: Graded, decode: Callable[[Sequence[int]], str] | None) -> str:
    verdict = {True: "right", False: "wrong", None: "ungraded"}[graded.correct]
    css = "none" if graded.correct is None else verdict
    label = html.escape(row["condition"])
    extensions = f", {row['extensions']} extensions" if row["extensions"] else ""
    facts = f"{row['thinking_tokens']} thinking tokens{extensions}, ended: {row['stop_reason']}"
    found = "no answer" if graded.extracted is None else f"answer {graded.extracted!r}"
    said = f"{html.escape(found)} by {html.escape(graded.rule)}"
    if decode is not None and row["token_ids"]:
        text = marked(row["token_ids"], row["forced"], decode)
    else:
        text = html.escape("\n\n".join(filter(None, (row["reasoning"], row["answer"]))))
    return (
        f'<details class=sample data-condition="{html.escape(row["condition"], quote=True)}" '
        f'data-verdict="{verdict}"><summary>{label}, sample {row["sample"]}: <span class={css}>{verdict}</span> '
        f"<span class=small>{facts}; {said}</span></summary><pre>{text}</pre></details>"
    )


def marked(ids: Sequence[int], forced: Sequence[int], decode: Callable[[Sequence[int]], str]) -> str:
    """Escaped text of `ids`, runs of forced positions inside <mark>."""
    written = set(forced)
    pieces, start = [], 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or (at in written) != (start in written):
            text = html.escape(decode(ids[start:at]))
            pieces.append(f"<mark>{text}</mark>" if start in written else text)
            start = at
    return "".join(pieces)
