"""The selected questions as a training file, and what each will cost in tokens.

The file is what `train.sft` reads, and the tokens are counted by what it reads it with (engine.text.training_text).
"""

import json
from typing import Any

import polars as pl

from curate.config import Format
from curate.records import decisions
from engine.text.tokenizer import Tokenizer
from engine.text.training_text import s1_messages, training_tokens

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


def record(row: dict[str, Any], settings: Format, text: str) -> dict[str, Any]:
    """One line of the file."""
    about = {"id": row["qid"], "source": row["source"], "domain": row["domain"]}
    if settings.style == "text":
        return about | {"text": text}
    if settings.style == "messages":
        return about | {"messages": s1_messages(row["question"], row["thinking"], row["attempt"])}
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
    tokenizer = Tokenizer.load(settings.tokenizer)
    samples, lines, rules = [], [], []
    for row in rows.iter_rows(named=True):
        ids, trained = training_tokens(tokenizer, s1_messages(row["question"], row["thinking"], row["attempt"]))
        text = tokenizer.decode(ids)
        thinking, attempt = (len(tokenizer.encode(row[c].strip())) for c in ("thinking", "attempt"))
        samples.append((row["qid"], len(ids), sum(trained), thinking, attempt))
        rule, note = "kept", ""
        if settings.max_tokens is not None and len(ids) > settings.max_tokens:
            rule, note = "too_long", f"{len(ids)} tokens, more than {settings.max_tokens}"
        elif settings.style == "text" and tokenizer.encode(text, specials=True) != ids:
            rule, note = "spells_special", "the question spells a special token, which a rendered text cannot say"
        rules.append((rule, note))
        if rule == "kept":
            lines.append(json.dumps(record(row, settings, text), ensure_ascii=False) + "\n")
    said = pl.DataFrame(rules, schema={"rule": pl.String, "evidence": pl.String}, orient="row")
    made = decisions(rows.select("row_id", "qid").hstack(said), STAGE, pl.col("rule") == "kept")
    return made, pl.DataFrame(samples, schema=SAMPLE, orient="row"), "".join(lines).encode()
