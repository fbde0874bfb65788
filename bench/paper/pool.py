"""The pool of questions with written traces, and the sets that are chosen from it.

A trace thinks as those of s1-nano do: it stops after a few tries or a hasty pass, or goes on with "Wait". Whether its
answer is right plays no part in the choice, as in the paper.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import polars as pl

from curate.config import Select
from curate.families.distinct import draw_distinct
from curate.families.problem import thinking
from curate.selection.select import select
from engine.text.tokenizer import Tokenizer

MUCH, REST = "chains", ("countdown3", "countdown4", "sequences", "clocks", "weekdays", "logic", "residues")
"""Half of the pool is of one family, as half of the paper's is of one source; the others share the rest."""
WAITED, MOST_WAITS = 0.5, 6
"""Chance that a trace goes on with a "Wait" where it might stop, and how often at most."""
Choice = Literal["paper", "random", "diverse", "longest", "full"]


def pool(tokenizer: Tokenizer, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` distinct questions of the train side: id, family, question, thinking, answer, correct, trace_tokens."""
    rng, rows = Random(f"paper pool {seed}"), []
    for number, problem in enumerate(draw_distinct("train", seed, count, (MUCH,) * len(REST) + REST).problems):
        waits = 0
        while waits < MOST_WAITS and rng.random() < WAITED:
            waits += 1
        last = min(waits, len(problem.rounds) - 1)
        text, answer = thinking(problem, last, waits - last), problem.rounds[last].answer
        rows.append(
            {
                "id": f"{problem.family}-{number}",
                "family": problem.family,
                "question": problem.prompt,
                "thinking": text,
                "answer": answer,
                "correct": answer == problem.answer,
                "trace_tokens": len(tokenizer.encode(text)),
            }
        )
    return rows


def chosen(rows: Sequence[dict[str, Any]], mode: Choice, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows by `curate.selection.select`, a family for a domain; `paper` passes over what the base has solved
    (`solved`), the others do not, as in the paper. Raises ValueError where there are fewer."""
    pool = [row for row in rows if not (mode == "paper" and row["solved"])]
    columns = {"qid": "id", "source": "family", "domain": "family", "trace_tokens": "trace_tokens"}
    table = pl.DataFrame(
        {new: [row[old] for row in pool] for new, old in columns.items()} | {"correct": [r["correct"] for r in pool]}
    )
    picked = select(table, Select(mode=mode, count=count, seed_sources=()), seed)["qid"].to_list()
    if mode != "full" and len(picked) < count:
        raise ValueError(f"{count} rows are asked for, and the pool has {len(picked)}")
    of = {row["id"]: row for row in rows}
    return [of[qid] for qid in picked]


def repeated(rows: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` rows: all of `rows` in a new order, again and again, so that sets of every size are trained on for as
    many steps."""
    rng = Random(f"order {seed}")
    order: list[int] = []
    while len(order) < count:
        order += rng.sample(range(len(rows)), len(rows))
    return [rows[at] | {"id": f"{at}-{place}"} for place, at in enumerate(order[:count])]
