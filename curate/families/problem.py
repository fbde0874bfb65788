"""What a question family produces: a question, its written reasoning in rounds, and the side of the split it is on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

NOT_FOUND = "not found"
WAIT = "Wait"
HELDOUT_SHARE = 10  # one canonical question in ten is held out


@dataclass(frozen=True)
class Round:
    """One stretch of thinking, up to the point where a hasty thinker stops.

    Attributes:
        lines: the reasoning, without newlines.
        answer: what is answered when thinking stops right after these lines: the solution, a slip, or `NOT_FOUND`.
        lead: how the round opens after a "Wait" ("Wait, more." for lead "more"); unused in the first round.
    """

    lines: tuple[str, ...]
    answer: str
    lead: str = "more"


@dataclass(frozen=True)
class Problem:
    """A question with its reasoning.

    Attributes:
        family: name of the family, a key of `curate.families.FAMILIES`.
        key: canonical form of the question: the same for all wordings and orders that are the same task.
        prompt: the question in plain English.
        answer: a right answer (countdown has others).
        rounds: the reasoning; the last round reaches `answer`.
    """

    family: str
    key: str
    prompt: str
    answer: str
    rounds: tuple[Round, ...]

    @property
    def difficulty(self) -> int:
        """Index of the first round whose answer is the right one: the number of "Wait"s it takes."""
        return next(i for i, r in enumerate(self.rounds) if r.answer == self.answer)

    @property
    def split(self) -> str:
        """ "heldout" or "train", decided by a hash of the canonical question, never by a seed."""
        digest = hashlib.sha256(f"{self.family}|{self.key}".encode()).digest()
        return "heldout" if int.from_bytes(digest[:8], "big") % HELDOUT_SHARE == 0 else "train"


def search_rounds(
    head: tuple[str, ...], tries: Sequence[tuple[str, ...]], per_round: int, answer: str
) -> tuple[Round, ...]:
    """Rounds of a systematic search that gives up after every `per_round` failed tries; the last try succeeds.

    Args:
        head: lines before the first try of every round, such as the question restated: what a try needs is close by.
        tries: the lines of each try, in order.
        per_round: tries before giving up.
        answer: the answer once the last try has succeeded; it is written on a line of its own ("so 12").
    """
    *failed, last = (
        head + tuple(chain.from_iterable(tries[at : at + per_round])) for at in range(0, len(tries), per_round)
    )
    return (*(Round(lines, NOT_FOUND) for lines in failed), Round((*last, f"so {answer}"), answer))


def segments(problem: Problem, last: int, checks: int = 0) -> list[tuple[str, bool]]:
    """The thinking up to round `last` and `checks` rechecks after it, as (text, is it a "Wait") pairs.

    A recheck, what is written when a "Wait" comes after the last round, is that round's last two lines once more.
    """
    parts = [("\n".join(problem.rounds[0].lines) + "\n", False)]
    for r in problem.rounds[1 : last + 1]:
        parts += [(WAIT, True), (f", {r.lead}.\n" + "\n".join(r.lines) + "\n", False)]
    recheck = "\n".join(problem.rounds[-1].lines[-2:])
    return parts + [(WAIT, True), (f", check.\n{recheck}\n", False)] * checks


def thinking(problem: Problem, last: int | None = None, checks: int = 0) -> str:
    """The text of `segments`, by default to the last round, without the newline at its end."""
    parts = segments(problem, len(problem.rounds) - 1 if last is None else last, checks)
    return "".join(text for text, _ in parts).rstrip("\n")
