"""The selected questions as a training file, and what each will cost in tokens.

The file is what `train.sft` reads. Its text is s1's: thinking and answer inside one assistant turn, each opened by a
delimiter; "Answer: " stands before an answer that does not contain "Answer:".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from curate.config import Format
from curate.records import decisions

if TYPE_CHECKING:
    from engine.text.tokenizer import Tokenizer

STAGE = "format"

SAMPLE = pl.Schema(
    {
        "qid": pl.String,
        "tokens": pl.Int64,
        "trained": pl.Int64,
        "thinking_tokens": pl.Int64,
        "attempt_tokens": pl.Int64,
    }
)
"""Tokens of a whole sample, of its part that carries loss, of its trace and of its answer."""

THINK = "<|im_start|>think\n"
ANSWER = "\n<|im_start|>answer\n"


def messages(question: str, thinking: str, attempt: str) -> list[dict[str, str]]:
    """The conversation of a sample."""
    attempt = attempt.strip() if "Answer:" in attempt else "Answer: " + attempt.strip()
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": THINK + thinking.strip() + ANSWER + attempt},
    ]


def rendered(tokenizer: Tokenizer, chat: list[dict[str, str]]) -> tuple[str, str]:
    """(whole text, the part before the assistant's turn) by the tokenizer's own chat template."""
    text = tokenizer.decode(tokenizer.render(chat, add_generation_prompt=False))
    head = tokenizer.decode(tokenizer.render(chat[:-1], add_generation_prompt=True))
    return text, head


def record(row: dict[str, Any], settings: Format, text: str) -> dict[str, Any]:
    """One line of the file."""
    about = {"id": row["qid"], "source": row["source"], "domain": row["domain"]}
    if settings.style == "text":
        return about | {"text": text}
    if settings.style == "messages":
        return about | {"messages": messages(row["question"], row["thinking"], row["attempt"])}
    return about | {
        "question": row["question"],
        "thinking": row["thinking"],
        "attempt": row["attempt"],
        "reference": row["answer"],
    }


def formatted(rows: pl.DataFrame, settings: Format) -> tuple[pl.DataFrame, pl.DataFrame, bytes]:
    """(decisions [DECISION], samples [SAMPLE], the JSONL file) for `rows` [row_id, qid, source, domain, question,
    answer, thinking, attempt] in the order given.

    Raises InputError where the tokenizer's folder cannot be used.
    """
    from engine.text.tokenizer import Tokenizer  # torch comes with it: only this stage needs it

    tokenizer = Tokenizer.load(settings.tokenizer)
    samples, lines, keeps, notes = [], [], [], []
    for row in rows.iter_rows(named=True):
        text, head = rendered(tokenizer, messages(row["question"], row["thinking"], row["attempt"]))
        total = len(tokenizer.encode(text, specials=True))
        trained = total - len(tokenizer.encode(head, specials=True))
        thinking, attempt = (len(tokenizer.encode(row[c].strip())) for c in ("thinking", "attempt"))
        samples.append((row["qid"], total, trained, thinking, attempt))
        keep = settings.max_tokens is None or total <= settings.max_tokens
        keeps.append(keep)
        notes.append("" if keep else f"{total} tokens, more than {settings.max_tokens}")
        if keep:
            lines.append(json.dumps(record(row, settings, text), ensure_ascii=False) + "\n")
    kept = (
        rows.select("row_id", "qid")
        .with_columns(pl.Series("keep", keeps, dtype=pl.Boolean), pl.Series("evidence", notes, dtype=pl.String))
        .with_columns(pl.when("keep").then(pl.lit("kept")).otherwise(pl.lit("too_long")).alias("rule"))
    )
    table = pl.DataFrame(samples, schema=SAMPLE, orient="row")
    return decisions(kept, STAGE), table, "".join(lines).encode()
