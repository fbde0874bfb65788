"""The selected questions as a training file, and what each will cost in tokens.

The file is what `train.sft` reads, and the tokens are counted by what it reads it with (engine.text.training_text).
"""

from typing import Any

import polars as pl

from curate.config import Format
from curate.records import decisions
from engine.command.append_log import json_line
from engine.model.embedded import folder_of
from engine.text.tokenizer import Tokenizer
from engine.text.training_text import s1_messages, training_tokens

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


def formatted(rows: pl.DataFrame, settings: Format) -> tuple[pl.DataFrame, pl.DataFrame, bytes]:
    """(decisions [DECISION], samples [SAMPLE], the JSONL file) for `rows` [row_id, qid, source, domain, question,
    answer, thinking, attempt] in the order given.

    Raises InputError where the tokenizer's folder cannot be used.
    """
    tokenizer = Tokenizer.load(folder_of(settings.tokenizer))
    samples, lines, rules = [], [], []
    for row in rows.iter_rows(named=True):
        messages = s1_messages(row["question"], row["thinking"], row["attempt"])
        ids, trained = training_tokens(tokenizer, messages)
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
            about = {"id": row["qid"], "source": row["source"], "domain": row["domain"]}
            styles: dict[str, dict[str, Any]] = {
                "text": {"text": text},
                "messages": {"messages": messages},
                "s1": {c: row[c] for c in ("question", "thinking", "attempt")} | {"reference": row["answer"]},
            }
            lines.append(json_line(about | styles[settings.style]))
    said = pl.DataFrame(rules, schema={"rule": pl.String, "evidence": pl.String}, orient="row")
    made = decisions(rows.select("row_id", "qid").hstack(said), "format", pl.col("rule") == "kept")
    return made, pl.DataFrame(samples, schema=SAMPLE, orient="row"), b"".join(lines)
