"""The two training files of s1-nano: the pretraining mix and the SFT set, both from the families' train side.

Pretraining holds every situation the engine can make: a "Wait" after giving up (search on), after a success (restate
it), several in a row, and an end of thinking in the middle of a line. What the engine would have written ("Wait", the
forced closing) carries no loss there, so the model is never taught to write it: when to stop stays certain.
SFT is plain s1 text: question, thinking, answer, with some "Wait"s that the model writes by itself.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from curate.families import problems
from curate.families.problem import NOT_FOUND, Problem, segments, thinking
from curate.nano.tokenizer import SYSTEM
from curate.progress import Progress, no_progress
from engine.command.append_log import json_line
from engine.text.training_text import THINK
from engine.thinking.plan import PRESETS

S1 = PRESETS["s1"]

# Families of the pretraining mix in turn: what takes longer to learn comes more often.
MIX = (
    "countdown3",
    "sequences",
    "chains",
    "countdown4",
    "logic",
    "countdown3",
    "clocks",
    "residues",
    "sequences",
    "countdown3",
    "countdown4",
    "weekdays",
    "logic",
)
# Share of the pretraining questions whose difficulty is drawn evenly: later rounds need practice too.
EVEN = 0.5
# "Wait"s after a success, one of these at random.
CHECKS, CHECK_WEIGHTS = (0, 1, 2, 3, 4, 8), (60, 15, 10, 7, 5, 3)


def head(prompt: str) -> str:
    """The conversation up to the assistant's turn."""
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def pretraining_records(tokenizer: Tokenizer, count: int, seed: int, families: tuple[str, ...] = MIX) -> Iterator[dict]:
    """`count` token records, a question each: solved to the end, given up early, or cut by a budget somewhere.

    A record whose answer is not right has `slip` true; `corrected` is the same thinking gone on after a "Wait".
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    rng = Random(f"pretraining {seed}")
    for number, problem in enumerate(islice(problems("train", seed, families, EVEN), count)):
        final = len(problem.rounds) - 1
        kind = rng.random()
        last = rng.randrange(final) if kind < 0.25 and final > 0 else rng.randint(0, final) if kind > 0.65 else final
        checks = rng.choices(CHECKS, CHECK_WEIGHTS)[0] if last == final else 0
        answer = problem.rounds[last].answer
        parts = [(encode(text), engine) for text, engine in segments(problem, last, checks)]
        if kind > 0.65:
            *earlier, (tail, _) = parts
            cut = rng.randint(1, len(tail))
            if cut < len(tail) - 1 and not checks:
                answer = problem.rounds[last - 1].answer if last else NOT_FOUND
            parts = [*earlier, (tail[:cut], False)]
            if not tokenizer.decode(tail[:cut]).endswith("\n"):
                parts.append((encode("\n"), True))
            parts += [(encode(S1.budget_end), True), (encode(f" {answer}<|im_end|>\n"), False)]
        else:
            parts.append((encode(f"{S1.end}\nAnswer: {answer}<|im_end|>\n"), False))
        opening, opener = encode(head(problem.prompt)), encode(THINK)
        tokens, trained = opening + opener, [0] * len(opening) + [1] * len(opener)
        for ids, engine in parts:
            tokens += ids
            trained += [0 if engine else 1] * len(ids)
        yield {
            "id": f"{problem.family}-{seed}-{number}",
            "family": problem.family,
            "question": problem.prompt,
            "answer": answer,
            "slip": answer != problem.answer,
            "tokens": tokens,
            "trained": trained,
        } | corrected(problem, answer)


def sft_records(count: int, seed: int, own_wait: float = 0.25) -> Iterator[dict]:
    """`count` problems in s1's columns; after each round the trace goes on with its own "Wait" in `own_wait` of cases.

    A trace that stops too early is marked `slip`; `corrected` is the same thinking gone on after a "Wait".
    """
    rng = Random(f"sft {seed}")
    for number, problem in enumerate(islice(problems("train", seed + 1000), count)):
        waits = 0
        while rng.random() < own_wait:
            waits += 1
        last = min(waits, len(problem.rounds) - 1)
        answer = problem.rounds[last].answer
        yield {
            "id": f"{problem.family}-{seed}-{number}",
            "family": problem.family,
            "question": problem.prompt,
            "thinking": thinking(problem, last, waits - last),
            "answer": answer,
            "slip": answer != problem.answer,
        } | corrected(problem, answer)


def corrected(problem: Problem, answer: str) -> dict:
    """What a record with a wrong `answer` holds beside it; nothing where it is right."""
    if answer == problem.answer:
        return {}
    return {"corrected": {"thinking": thinking(problem), "answer": problem.answer}}


def write_jsonl(path: Path, records: Iterable[dict], progress: Progress = no_progress) -> None:
    """Writes one JSON object a line."""
    with path.open("wb") as lines:
        for record in records:
            lines.write(json_line(record))
            progress(1)
