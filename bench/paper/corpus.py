"""The corpus of a base that has seen no trace: direct answers, and loose pieces of solutions.

A piece is a few lines from anywhere in a solution, so the base learns what a line holds and what may follow it. How a
thought begins, how its lines are joined to the end, when it stops, "Wait", and an answer behind thinking: all that is
only in the traces of fine-tuning.
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


def pieces(problem: Problem, rng: Random) -> str:
    """Some lines of the solution from here, some from there, in no order."""
    lines = [line for part in problem.rounds for line in part.lines]
    starts = [rng.randrange(len(lines)) for _ in range(rng.randint(*PIECES))]
    return "\n\n".join("\n".join(lines[at : at + rng.randint(1, MOST_LINES)]) for at in starts)


def records(tokenizer: Tokenizer, count: int, seed: int) -> Iterator[dict]:
    """`count` token records of the families' train side; loss on what the assistant writes."""
    rng = Random(f"pieces {seed}")
    for number, problem in enumerate(islice(problems("train", seed, MIX, EVEN), count)):
        said = f"{PRESETS['s1'].end}\nAnswer: {problem.answer}" if rng.random() < DIRECT else pieces(problem, rng)
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in (head(problem.prompt), said)]
        ids[1] += tokenizer.encode("<|im_end|>\n", add_special_tokens=False).ids
        yield {
            "id": f"{problem.family}-{seed}-{number}",
            "tokens": ids[0] + ids[1],
            "trained": [0] * len(ids[0]) + [1] * len(ids[1]),
        }
