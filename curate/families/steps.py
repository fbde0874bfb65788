"""Is a line of written reasoning right? Exact labels for a reward model of steps, from the question alone.

A line is judged given the question and the lines before it **as they stand**: what goes on truthfully from a wrong line
is right in itself, so the first wrong line is the one to learn from. WRONG is arithmetic that does not come out; a
number, clue or name that is not there (used up, of another place, never reached); a verdict ("low", "no", "yes") or a
conclusion that does not follow; and an answer line that the family's `check` refuses or that no line leads to.

- Honest dead ends are RIGHT: a try that truthfully says that it fails, be it useless, repeated or out of turn.
- Giving up writes no line. A line "Answer: not found" is WRONG, as is every answer line that answers nothing; leave
  answer lines out where the way is to be judged and not its end.
- "Wait, more." is RIGHT, and the first step behind it may take up whatever an earlier line reached.
- The families' own hasty passes are no exception: a forgotten carry is WRONG where it is forgotten (in clocks that is
  the answer line, for nothing false is said before).
- A line of none of the forms that the families write is UNKNOWN and establishes nothing. What is not right behind it is
  UNKNOWN too, up to the next step that is RIGHT: it may build on what could not be read.
- Lines are whole. Leave out the last one where a budget cut it: half a sum may read as a wrong one.
"""

import re
from collections.abc import Sequence
from enum import Enum

from curate.families import check
from curate.families.problem import WAIT
from curate.families.read_rules import Logic, Residues, Sequences, Weekdays
from curate.families.read_sums import Chains, Clocks, Countdown
from curate.families.written import Reader
from engine.errors import InputError, shown

MAX_LINE = 200  # characters; what the families write has fewer than 100

READERS: dict[str, type[Reader]] = {
    "countdown3": Countdown,
    "countdown4": Countdown,
    "chains": Chains,
    "residues": Residues,
    "sequences": Sequences,
    "clocks": Clocks,
    "weekdays": Weekdays,
    "logic": Logic,
}


class Verdict(Enum):
    """What a line is: right, wrong, or not readable."""

    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "unknown"


VERDICTS = {True: Verdict.RIGHT, False: Verdict.WRONG, None: Verdict.UNKNOWN}


def verdicts(family: str, prompt: str, lines: Sequence[str]) -> list[Verdict]:
    """A verdict for each of `lines`, the reasoning behind `prompt` without newlines, "Wait, more." lines among them.

    Raises InputError where `family` does not exist or `prompt` is not a question of it.
    """
    if family not in READERS:
        raise InputError(f"family {shown(family)} does not exist; there are {', '.join(READERS)}")
    kind = READERS[family]
    if not re.fullmatch(kind.QUESTION, prompt):
        raise InputError(f"prompt {shown(prompt)} is no question of {family}; give it as the family writes it")
    reader = kind(prompt)
    found: list[Verdict] = []
    fresh, lost = True, False  # no step since the start or a "Wait"; no right step since a line that could not be read
    for line in lines:
        right: bool | None = None
        if re.fullmatch(rf"{WAIT}(, [a-z ]+\.)?", line):
            right = fresh = True
        elif answer := re.fullmatch(r"(?:Final )?Answer: ?(.*)", line[:MAX_LINE]):
            right = check(family, prompt, answer[1])
        elif answer := re.fullmatch(r"so (.+)", line[:MAX_LINE]):
            right = check(family, prompt, answer[1]) and (reader.follows(answer[1]) or (None if lost else False))
        else:
            stated = reader.step(line, fresh) if len(line) <= MAX_LINE else None
            right = None if lost and not stated else stated
            fresh, lost = fresh and stated is None, not stated if lost else stated is None
        found.append(VERDICTS[right])
    return found


def first_error(family: str, prompt: str, lines: Sequence[str]) -> int | None:
    """Index of the first WRONG line, None where there is none; arguments and errors of `verdicts`."""
    found = verdicts(family, prompt, lines)
    return found.index(Verdict.WRONG) if Verdict.WRONG in found else None
