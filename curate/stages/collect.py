"""Questions of all sources in one table, and a decision for every row that was read."""

import json
from collections.abc import Callable

import polars as pl

from curate.columns import is_unicode
from curate.families import FAMILIES
from curate.models.asking import clean
from curate.normalise import question_id, s1_hash
from curate.records import ANSWER_TYPES, COT_TYPES, DECISION, QUESTION, decisions
from curate.sources import Draft, RowError, Skip, Source
from engine.errors import InputError
from engine.rows_file import BadRow

RAW = 200
"""Characters of a row that cannot be read which are kept as evidence."""


def collect_source(source: Source, advance: Callable[[int], None]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(questions [QUESTION], decisions [DECISION]) of one source; every row read has its decision.

    Raises InputError where a file is missing or no row at all can be used.
    """
    drafts: list[tuple[int, Draft]] = []
    dropped: dict[int, tuple[str, str]] = {}
    read, private = 0, source.info.private
    for number, row in source.read():
        read = number
        advance(1)
        if isinstance(row, BadRow):
            dropped[number] = ("malformed", row.reason if private else f"{row.reason}: {row.raw}")
            continue
        try:
            draft = source.skip(row) or source.draft(row)
            if isinstance(draft, Draft):
                _check(draft)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # What a column holds is not ours to know: whatever an adapter trips over is this row's fault, and said.
            unknown = f"unexpected value ({type(error).__name__}: {error})"
            reason = str(error) if isinstance(error, RowError) else unknown
            raw = json.dumps(row, ensure_ascii=True, default=str)[:RAW]
            dropped[number] = ("malformed", "unexpected value" if private else f"{reason}: {raw}")
            continue
        if isinstance(draft, Skip):
            dropped[number] = (f"filter:{draft.rule}", draft.evidence)
        else:
            drafts.append((number, draft))
    if not drafts:
        first = next(iter(dropped.values()), ("empty", "no rows"))
        raise InputError(
            f"source {source.label}: none of its {read} rows gives a question ({first[0]}: {first[1][:160]}); check "
            "the file, the adapter and rename"
        )
    chosen = source.chosen(drafts)
    dropped |= {number: ("filter:sample", "not drawn") for number, _ in drafts if number not in chosen}
    version = source.version()
    questions = pl.DataFrame(
        [_question(source, version, number, draft) for number, draft in drafts if number in chosen],
        schema=QUESTION,
        orient="row",
    )
    lost = [
        (f"{source.label}/{number}", None, "collect", False, rule, clean(evidence))
        for number, (rule, evidence) in sorted(dropped.items())
    ]
    kept = decisions(questions, "collect", pl.lit(True), pl.lit("kept"), pl.lit(""))
    return questions, pl.concat([kept, pl.DataFrame(lost, schema=DECISION, orient="row")])


def _check(draft: Draft) -> None:
    """Raises RowError for a draft that the tables cannot hold; adapters are checked, too."""
    if draft.answer_type not in ANSWER_TYPES or draft.cot_type not in COT_TYPES:
        raise RowError(f"answer type {draft.answer_type!r} or cot type {draft.cot_type!r} does not exist")
    named = draft.family is not None
    fits = {"family": draft.family in FAMILIES, "python": named}.get(draft.answer_type, not named)
    if not fits:
        raise RowError(f"answer type {draft.answer_type!r} does not go with family {draft.family!r}")
    for name, text in (("question", draft.question), ("solution", draft.solution), ("answer", draft.answer)):
        if text is not None and not is_unicode(text):
            raise RowError(f"the {name} holds a lone surrogate, which is not valid Unicode")


def _question(source: Source, version: str, number: int, draft: Draft) -> tuple[object, ...]:
    return (
        f"{source.label}/{number}",
        question_id(draft.question),
        s1_hash(draft.question),
        source.label,
        number,
        version,
        source.licence or source.info.licence,
        draft.question,
        draft.solution,
        draft.answer,
        draft.answer_type,
        draft.family,
        draft.cot_type,
        json.dumps({k: v for k, v in draft.meta.items() if v is not None}, default=str),
    )


def collect(sources: tuple[Source, ...], advance: Callable[[int], None]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(questions, decisions) of all sources, in their order."""
    parts = [collect_source(source, advance) for source in sources]
    return pl.concat([p[0] for p in parts]), pl.concat([p[1] for p in parts])
