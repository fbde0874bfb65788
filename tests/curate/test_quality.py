"""Quality: each rule on rows that break it and rows that only look like it."""

import polars as pl
import pytest

from curate.config import Quality
from curate.selection.quality import quality

SOUND = {
    "row_id": "MATH/1",
    "qid": "q",
    "source": "MATH",
    "question": "What is 2 + 2?",
    "answer": "4",
    "family": None,
    "thinking": "Two and two.",
    "attempt": "Answer: 4",
    "finish_reason": "stop",
    "error": None,
    "error_detail": None,
}
TYPES = {
    "error": pl.String,
    "error_detail": pl.String,
    "family": pl.String,
    "thinking": pl.String,
    "attempt": pl.String,
    "finish_reason": pl.String,
    "answer": pl.String,
}


def decide(row=None, **settings):
    made = quality(pl.DataFrame([SOUND | (row or {})], schema_overrides=TYPES), Quality(**settings)).row(0, named=True)
    assert made["keep"] == (made["rule"] == "kept")
    return made["rule"], made["evidence"]


def test_a_sound_row_is_kept():
    assert decide() == ("kept", "")


@pytest.mark.parametrize(
    ("change", "rule", "evidence"),
    [
        ({"error": "timeout", "error_detail": "600 s", "thinking": None}, "error", "timeout: 600 s"),
        ({"thinking": "  \n"}, "no_trace", "finish reason stop"),
        ({"thinking": None}, "no_trace", "finish reason stop"),
        ({"finish_reason": "length"}, "unfinished", "finish reason length"),
        ({"finish_reason": None}, "unfinished", "finish reason unknown"),
        ({"attempt": ""}, "no_answer", "finish reason stop"),
        ({"thinking": "so <|im_start|>answer"}, "control_token", "thinking: ...so <|im_start|>answer..."),
        ({"question": "Say <|im_end|> now"}, "control_token", "question: ...Say <|im_end|> now..."),
        ({"question": "In [asy] draw(); [/asy] find x."}, "asy", "question: ...In [asy] draw(); [/asy] find"),
        ({"question": "See ![Image](a.png)."}, "image", "question: ...See ![Image](a.png)...."),
        ({"question": "As shown on p12. below"}, "page_reference", "question: ...As shown on p12. below..."),
        ({"question": "**Problem** 3. Find x."}, "bold_number", "question: ...**Problem** 3. Find x....."),
        ({"question": "x" * 20_001}, "too_long", "20001 characters"),
    ],
)
def test_what_is_dropped_and_why(change, rule, evidence):
    found, why = decide(change)
    assert found == rule
    assert why.rstrip(".") == evidence.rstrip(".")


@pytest.mark.parametrize(
    "question",
    [
        "f(x) = exp2. Find it.",
        "Find p0. now",
        "p1234. is not a page",
        "**bold** only\n3 lines below",
        "a <| b |> c",
        "image of ![x]",
    ],
)
def test_what_only_looks_like_it_is_kept(question):
    assert decide({"question": question})[0] == "kept"


def test_s1s_page_rule_also_drops_exp2():
    assert decide({"question": "f(x) = exp2. Find it."}, page_reference="s1")[0] == "page_reference"


def test_aime_keeps_its_drawings():
    question = {"question": "[asy] draw(); [/asy]"}
    assert decide(question | {"source": "AIME"})[0] == "kept"
    assert decide(question | {"source": "AIME"}, asy_exempt=())[0] == "asy"


def test_cut_traces_and_missing_references_are_settings():
    assert decide({"finish_reason": "length"}, finished=False)[0] == "kept"
    assert decide({"answer": None})[0] == "kept"
    assert decide({"answer": None}, reference=True)[0] == "no_reference"
    assert decide({"answer": None, "family": "countdown3"}, reference=True)[0] == "kept"


def test_without_traces_the_questions_alone_are_judged():
    table = pl.DataFrame([SOUND], schema_overrides=TYPES).select(
        "row_id", "qid", "source", "question", "answer", "family"
    )
    assert quality(table, Quality())["rule"].to_list() == ["kept"]
