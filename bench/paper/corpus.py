"""The corpus of a base that has seen no trace: direct answers, and loose pieces of solutions.

A piece is a few lines from anywhere in a solution, so the base learns what a line holds and what may follow it. How a
thought begins and goes on to its end, when it stops, "Wait", and an answer behind thinking: all that is only in the
traces of fine-tuning. No text is longer than `LONGEST` tokens, so neither has it seen what stands further on.
"""

from collections.abc import Iterator
from itertools import islice
from random import Random

from tokenizers import Tokenizer

from curate.families import Problem, problems
from curate.nano.corpus import MIX, head
from engine.thinking.plan import PRESETS

DIRECT = 0.3
"""Share of the questions that are answered at once."""
EVEN = 0.5
"""Share whose difficulty is drawn evenly."""
PIECES, MOST_LINES = (2, 5), 4


LONGEST = 160
"""Tokens of a record; longer ones are left out."""


def pieces(problem: Problem, rng: Random) -> str:
    """Some lines of the solution from here, some from there, in no order; none from its beginning to the end of a
    round, where a hasty thought would stop."""
    lines = [line for part in problem.rounds for line in part.lines]
    found = []
    for _ in range(rng.randint(*PIECES)):
        at = rng.randrange(len(lines))
        most = len(problem.rounds[0].lines) - 1 if at == 0 else MOST_LINES
        found.append("\n".join(lines[at : at + rng.randint(1, max(1, min(MOST_LINES, most)))]))
    return "\n\n".join(found)


def records(tokenizer: Tokenizer, count: int, seed: int) -> Iterator[dict]:
    """`count` token records of the families' train side; loss on what the assistant writes."""
    return islice(_records(tokenizer, seed), count)


def _records(tokenizer: Tokenizer, seed: int) -> Iterator[dict]:
    rng = Random(f"pieces {seed}")
    for number, problem in enumerate(problems("train", seed, MIX, EVEN)):
        said = f"{PRESETS['s1'].end}\nAnswer: {problem.answer}" if rng.random() < DIRECT else pieces(problem, rng)
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in (head(problem.prompt), said)]
        ids[1] += tokenizer.encode("<|im_end|>\n", add_special_tokens=False).ids
        if len(ids[0]) + len(ids[1]) > LONGEST:
            continue
        yield {
            "id": f"{problem.family}-{seed}-{number}",
            "tokens": ids[0] + ids[1],
            "trained": [0] * len(ids[0]) + [1] * len(ids[1]),
        }
