"""The two training files of s1-nano: the pretraining mix and the SFT set, both from the families' train side.

Pretraining holds every situation the engine can make: a "Wait" after giving up (search on), after a success (restate it),
several in a row, and an end of thinking in the middle of a line. What the engine would have written ("Wait", the forced
closing) carries no loss there, so the model is never taught to write it: when to stop stays certain.
SFT is plain s1 text: question, thinking, answer, with some "Wait"s that the model writes by itself.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from curate.families import problems
from curate.families.problem import NOT_FOUND, segments, thinking
from curate.nano_tokenizer import SYSTEM

OPENER = "<|im_start|>think\n"
FORCED_END = "<|im_start|>answer\nFinal Answer:"


def head(prompt: str) -> str:
    """The conversation up to the assistant's turn."""
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def pretraining_records(tokenizer: Tokenizer, count: int, seed: int) -> Iterator[dict]:
    """`count` problems as token records: each solved to the end, and most once more given up early or cut by a budget.

    A record whose answer is not right has `slip` true; the record before it is the same question with the "Wait"s that
    correct it.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    newline, opener = encode("\n"), encode(OPENER)
    rng = Random(f"pretraining {seed}")
    for number, problem in enumerate(islice(problems("train", seed), count)):
        opening = encode(head(problem.prompt))
        final = len(problem.rounds) - 1

        def record(name: str, answer: str, parts: list[tuple[list[int], bool]]) -> dict:
            tokens, trained = opening + opener, [0] * len(opening) + [1] * len(opener)
            for ids, engine in parts:
                tokens += ids
                trained += [0 if engine else 1] * len(ids)
            return {
                "id": f"{problem.family}-{seed}-{number}-{name}", "family": problem.family, "prompt": problem.prompt,
                "answer": answer, "slip": answer != problem.answer, "tokens": tokens, "trained": trained,
            }  # fmt: skip

        def ended(last: int, checks: int) -> list[tuple[list[int], bool]]:
            parts = [(encode(text), engine) for text, engine in segments(problem, last, checks)]
            answer = problem.rounds[last].answer
            return [*parts, (encode(f"<|im_start|>answer\nAnswer: {answer}<|im_end|>\n"), False)]

        checks = rng.choice((0, 0, 1, 2, 3, 4, 6, 8))
        yield record("full", problem.answer, ended(final, checks))
        kind = rng.random()
        if kind < 0.35 and final > 0:
            last = rng.randrange(final)
            yield record("early", problem.rounds[last].answer, ended(last, 0))
        elif kind < 0.7:
            last = rng.randint(0, final)
            again = rng.choice((0, 0, 1, 3)) if last == final else 0
            before = problem.answer if again else problem.rounds[last - 1].answer if last else NOT_FOUND
            parts = [(encode(text), engine) for text, engine in segments(problem, last, again)]
            *earlier, (tail, _) = parts
            cut = rng.randint(1, len(tail))
            answer = problem.rounds[last].answer if cut >= len(tail) - 1 else before
            kept = [*earlier, (tail[:cut], False)]
            if not tokenizer.decode(tail[:cut]).endswith("\n"):
                kept.append((newline, True))
            kept += [(encode(FORCED_END), True), (encode(f" {answer}<|im_end|>\n"), False)]
            yield record("cut", answer, kept)


def sft_records(count: int, seed: int, own_wait: float = 0.25) -> Iterator[dict]:
    """`count` problems in s1's columns; after each round the trace goes on with its own "Wait" in `own_wait` of the cases.

    A trace that stops too early is marked `slip`; `corrected` is the same thinking gone on after a "Wait", and its answer.
    """
    rng = Random(f"sft {seed}")
    for number, problem in enumerate(islice(problems("train", seed + 1000), count)):
        last, checks = 0, 0
        while rng.random() < own_wait:
            if last < len(problem.rounds) - 1:
                last += 1
            else:
                checks += 1

        answer = problem.rounds[last].answer
        record = {
            "id": f"{problem.family}-{seed}-{number}", "family": problem.family, "question": problem.prompt,
            "thinking": thinking(problem, last, checks), "answer": answer, "slip": answer != problem.answer,
        }  # fmt: skip
        if record["slip"]:
            record["corrected"] = {"thinking": thinking(problem), "answer": problem.answer}
        yield record


def write_jsonl(path: Path, records: Iterator[dict]) -> int:
    """Writes one JSON object a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as lines:
        for count, record in enumerate(records, 1):
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return count
