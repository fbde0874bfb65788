"""Traces rewritten so that a model is told how long to think, by the rules of the paper's appendix E.1, and whether
what it then writes counts as it was taught.
"""

import re
from collections.abc import Sequence
from random import Random
from statistics import median
from typing import Any, Literal

from bench.evaluation.methods import CLASS_WORDING, STEPS_WORDING, TOKENS_WORDING
from curate.families.problem import WAIT
from engine.text.tokenizer import Tokenizer
from engine.text.training_text import ANSWER, THINK, training_tokens

Kind = Literal["token", "step", "class"]
STRINGS = (WAIT, "Hmm", "Alternatively")
TURN, END = "<|im_start|>", "<|im_end|>"
_STEP = re.compile(r"<\|im_start\|>(-?\d+) steps left\n")


def bucket(length: int) -> int:
    """The power of two that is not below `length`."""
    return 1 << max(0, length - 1).bit_length()


def conversation(row: dict[str, Any], kind: Kind, medians: dict[str, float]) -> tuple[str, str]:
    """What the user says and what the assistant writes."""
    steps, spoken = row["thinking"].split("\n"), row["thinking"]
    said = f"{THINK}{spoken}{ANSWER}Answer: {row['answer']}"
    match kind:
        case "token":
            asked = TOKENS_WORDING.format(bucket(row["trace_tokens"]))
        case "step":
            most = bucket(len(steps))
            asked = STEPS_WORDING.format(most)
            said = "".join(f"{TURN}{most - at} steps left\n{step}\n" for at, step in enumerate(steps))
            said += f"{ANSWER.lstrip()}Answer: {row['answer']}"
        case "class":
            asked = CLASS_WORDING["short" if row["trace_tokens"] <= medians[row["family"]] else "long"]
    return f"{row['question']}\n\n{asked}", said


def controlled(rows: Sequence[dict[str, Any]], kind: Kind, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Token records with loss on trace and answer. Short and long are told apart at each family's median."""
    lengths: dict[str, list[int]] = {}
    for row in rows:
        lengths.setdefault(row["family"], []).append(row["trace_tokens"])
    medians = {family: median(found) for family, found in lengths.items()}
    return [_record(row["id"], *conversation(row, kind, medians), tokenizer) for row in rows]


def _record(name: str, user: str, said: str, tokenizer: Tokenizer) -> dict[str, Any]:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    tokens, trained = training_tokens(tokenizer, messages)
    return {"id": name, "tokens": tokens, "trained": [int(one) for one in trained]}


def no_longer(rows: Sequence[dict[str, Any]], most: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Those of the token records that have at most `most` tokens, whole."""
    return [record for record in _plain(rows, tokenizer) if len(record["tokens"]) <= most]


def _plain(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    said = [f"{THINK}{row['thinking']}{ANSWER}Answer: {row['answer']}" for row in rows]
    return [_record(row["id"], row["question"], text, tokenizer) for row, text in zip(rows, said, strict=True)]


def cut(rows: Sequence[dict[str, Any]], most: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Token records that end after `most` tokens, in the middle of a thought where that is longer: what truncation at
    a short training length does."""
    return [
        record | {"tokens": record["tokens"][:most], "trained": record["trained"][:most]}
        for record in _plain(rows, tokenizer)
    ]


def several_strings(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The traces with "Hmm" or "Alternatively" in place of two "Wait"s in three."""
    rng = Random(f"strings {seed}")
    begin = re.compile(rf"^{WAIT}\b", re.MULTILINE)
    return [row | {"thinking": begin.sub(lambda _: rng.choice(STRINGS), row["thinking"])} for row in rows]


def countdown(text: str) -> list[int]:
    """The numbers of steps left that a response counts, in their order."""
    return [int(number) for number in _STEP.findall(text)]


def counts_down(numbers: Sequence[int], begin: int | None) -> bool:
    """Whether each is one less than the one before it, and the first is `begin` (None: whatever)."""
    if not numbers:
        return False
    first = numbers[0] if begin is None else begin
    return list(numbers) == list(range(first, first - len(numbers), -1))
