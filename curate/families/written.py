"""What the lines of written reasoning are made of: sums, verdicts, and the protocol of what reads them."""

import operator
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, Protocol

SUM = r"-?\d+[-+*]\d+=-?\d+"
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class Sum(NamedTuple):
    """A sum, difference or product as written."""

    a: int
    op: str
    b: int
    result: int

    @property
    def right(self) -> bool:
        """Whether it comes out."""
        return bool(APPLY[self.op](self.a, self.b) == self.result)


def sums(text: str) -> list[Sum]:
    """Every `a+b=c` of `text`, in order."""
    return [Sum(int(a), op, int(b), int(c)) for a, op, b, c in re.findall(r"(-?\d+)([-+*])(\d+)=(-?\d+)", text)]


def chained(written: Sequence[Sum]) -> bool:
    """Whether all come out and each begins with what the one before it gave."""
    return all(s.right for s in written) and all(after.a == before.result for before, after in pairwise(written))


def said(yes: bool) -> str:
    """A verdict in words."""
    return "yes" if yes else "no"


class Reader(Protocol):
    """Reads the lines of one trace in order and remembers what they state. Made of a prompt that `QUESTION` matches."""

    QUESTION: ClassVar[str]

    def __init__(self, prompt: str) -> None: ...

    def step(self, line: str, fresh: bool) -> bool | None:
        """Whether `line` is right, None where it has none of the family's forms. `fresh`: the first one of a round."""

    def follows(self, answer: str) -> bool:
        """Whether the lines read so far lead to `answer`."""
