"""The offline pool: sources made from the question families, as many and as large as the paper's.

A source stands in for one of the paper's. Its questions are those of the families' train side with verified answers
and written reasoning; `theme` puts them in words of a subject, so that domains mean something and a small model finds
them harder. Every stage gets something to do, on purpose and counted in `meta.seeded`: exact copies, near copies,
questions of an evaluation set, questions with damaged text, questions without a reference.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from curate.families import FAMILIES, Problem, problems
from curate.families.problem import thinking
from curate.sources.base import MISSES, Draft, Generated, Info, key_of, math_type, options_text
from curate.sources.themes import THEMES
from engine.errors import InputError, refuse

FACES = (
    "[asy] draw((0,0)--(1,0)--(0,1)--cycle); [/asy]",
    "![Image](figure.png)",
    "The table on p12. may help.",
    "**Part** 2 of the sheet.",
)
"""Text that `quality` drops: one for each of its patterns."""
PLAIN_CHECK = {"countdown3", "countdown4"}
"""Families with many right answers; their checkers read the numbers of the prompt, whatever words stand around."""


class Procedural(Generated, frozen=True, kw_only=True, tag="procedural"):
    """`rows` questions of `families` (name -> weight)."""

    info: ClassVar[Info] = Info("procedural", "", "Apache-2.0", ())
    families: dict[str, float]
    """Name of a family -> its weight in the draw."""
    style: Literal["plain", "theme", "choice", "program"] = "plain"
    """`plain`: the family's words; `theme`: opened by a subject; `choice`: a theme and options; `program`: a task to
    write a program, without a reference."""
    plain_share: float = 0.0
    """Share of rows that are plain whatever the style."""
    least_waits: int = 0
    """Only questions whose reasoning needs so many "Wait"s."""
    part: tuple[float, float] = (0.0, 1.0)
    """Part of all plain questions, by their hash: sources with parts that do not meet share no question."""
    unanswered: int = 0
    """Of the rows, those without a solution and an answer."""
    copies: int = 0
    """Of the rows, those that repeat an earlier one, as it is, in capitals or with spaces behind it."""
    near_copies: int = 0
    """Of the rows, those that repeat an earlier one with a word more."""
    leaks: int = 0
    """Of the rows, those that are questions of an evaluation set, as they are, in capitals or with other commas."""
    leak_seed: int = 7
    """Seed of the evaluation set (`curate.families`, held-out side) that leaks come from."""
    leak_count: int = 1000
    """Questions of that evaluation set."""
    damaged: int = 0
    """Of the rows, those with drawings, images or references to a page in them."""

    def local_files(self) -> list[Path]:
        """The code that makes the questions, in place of files that hold them."""
        return [Path(__file__), Path(__file__).with_name("themes.py"), *family_files()]

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows; special ones are spread among the others by the seed."""
        self.refuse_files()
        special = {
            "copy": self.copies,
            "near copy": self.near_copies,
            "leak": self.leaks,
            "damaged": self.damaged,
            "unanswered": self.unanswered,
        }
        seeded, unknown = sum(special.values()), [name for name in self.families if name not in FAMILIES]
        refuse(
            (
                seeded > self.rows,
                f"source {self.label}: {seeded} rows are to be special ones, but rows is {self.rows}",
            ),
            (
                unknown or not self.families,
                f"source {self.label}: families names {unknown or 'none'}; known: {', '.join(FAMILIES)}",
            ),
        )
        rng = Random(f"procedural {self.label} {self.seed}")
        kinds = [kind for kind, count in special.items() for _ in range(count)] + [""] * (self.rows - seeded)
        rng.shuffle(kinds)
        fresh = self._fresh(rng)
        earlier: list[Draft] = []
        for number, kind in enumerate(kinds, start=1):
            if kind in ("copy", "near copy") and not earlier:
                kind = ""  # nothing stands before it that it could copy
            if kind in ("copy", "near copy"):
                draft = _changed(rng.choice(earlier), kind, rng)
            elif kind == "leak":
                draft = _changed(_plain(rng.choice(heldout(self.leak_seed, self.leak_count))), kind, rng)
            elif kind:
                draft = _changed(next(fresh), kind, rng)
            else:
                draft = next(fresh)
                earlier.append(draft)
            yield number, {"draft": draft}

    def _fresh(self, rng: Random) -> Iterator[Draft]:
        names, weights = list(self.families), list(self.families.values())
        seen: set[str] = set()
        misses = 0
        while True:
            misses += 1
            if misses > MISSES:
                raise InputError(
                    f"source {self.label}: {len(seen)} questions are all that these settings allow; ask for fewer "
                    "rows, or more families, a wider part or a lower least_waits"
                )
            problem = FAMILIES[rng.choices(names, weights)[0]].make(rng)
            if (
                problem is None
                or problem.split != "train"
                or problem.difficulty < self.least_waits
                or problem.prompt in seen
            ):
                continue
            plain = self.style == "plain" or rng.random() < self.plain_share
            if plain and not self.part[0] <= key_of(0, problem.prompt) / 2**64 < self.part[1]:
                continue
            seen.add(problem.prompt)
            misses = 0
            yield _plain(problem) if plain else self._styled(problem, rng)

    def _styled(self, problem: Problem, rng: Random) -> Draft:
        plain, (code, opening) = _plain(problem), rng.choice(THEMES)
        meta, question = {**plain.meta, "theme": code}, f"{opening} {problem.prompt}"
        if self.style == "program":
            question = (
                f"{opening} Write a program that reads the numbers of the following task from standard input "
                f"and prints its answer.\n{problem.prompt}"
            )
            return Draft(question, None, None, "none", "coding", None, meta)
        if self.style == "choice" and problem.answer.isdigit():
            value = int(problem.answer)
            options = [str(v) for v in rng.sample([v for v in range(max(0, value - 9), value + 10) if v != value], 3)]
            options.insert(rng.randrange(4), problem.answer)
            letter = "ABCD"[options.index(problem.answer)]
            return Draft(
                f"{question}\n{options_text(options)}",
                f"{thinking(problem)}\nAnswer: {letter}",
                letter,
                "choice",
                meta=meta,
            )
        if problem.family in PLAIN_CHECK:
            return replace(plain, question=question, meta=meta)
        # What is no number (a time, names in order) has one right spelling, as the families' own checkers have it.
        return replace(
            plain,
            question=question,
            answer_type="number" if math_type(problem.answer) == "number" else "exact",
            family=None,
            meta=meta,
        )


def family_files() -> list[Path]:
    """The code of the question families."""
    return sorted((Path(__file__).parents[1] / "families").glob("*.py"))


@lru_cache(maxsize=2)
def heldout(seed: int, count: int) -> tuple[Problem, ...]:
    """Held-out questions in the plain draw, repeats included; by their hash no others are in a source either."""
    return tuple(islice(problems("heldout", seed), count))


def _plain(problem: Problem) -> Draft:
    return Draft(
        problem.prompt,
        f"{thinking(problem)}\nAnswer: {problem.answer}",
        problem.answer,
        "family",
        family=problem.family,
        meta={"family": problem.family, "waits": problem.difficulty},
    )


def _changed(draft: Draft, seeded: str, rng: Random) -> Draft:
    """`draft` as a row of the kind `seeded`; a near copy keeps nearly all word n-grams."""
    old, meta = draft.question, {**draft.meta, "seeded": seeded}
    if seeded == "unanswered":
        return Draft(old, cot_type=draft.cot_type, meta=meta)
    changes = {
        "copy": (old.upper(), old + "  ", old),
        "near copy": (f"Now: {old}", f"{old} Please!"),
        "leak": (old, old.upper(), old.replace(",", ";")),
        "damaged": tuple(f"{old}\n{face}" for face in FACES),
    }
    return replace(draft, question=rng.choice(changes[seeded]), meta=meta)
