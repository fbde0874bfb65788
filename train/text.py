"""Records as training tokens: s1's columns, conversations, and text that is rendered already.

Source of s1's columns: the s1 release's tokenisation script and section 3 of the paper. Which tokens are trained is
decided from what each token covers, never by searching for token patterns (which fails wherever tokens merge).
"""

import re
from typing import Any

from engine.text.tokenizer import Tokenizer
from engine.text.training_text import THINK, common, s1_messages
from train.errors import TrainingError

ASSISTANT = "<|im_start|>assistant\n"
MARKED = re.compile(re.escape(ASSISTANT) + r"(.*?)(?=<\|im_start\|>(?:user|system|tool)\n|\Z)", re.DOTALL)
# s1K, s1K-1.1 and our own names for the same three columns, tried in this order.
TRACES = ("thinking", "deepseek_thinking_trajectory", "thinking_trajectories")
ATTEMPTS = ("deepseek_attempt", "attempt", "answer")


def _filled(value: Any, field: str, name: str) -> str:
    if not isinstance(value, str):
        raise TrainingError(f"{name}: field {field!r} must be text, not {type(value).__name__}")
    if not value.strip():
        raise TrainingError(f"{name}: field {field!r} is empty; give it or remove the sample")
    return value


def messages_of(record: dict[str, Any], name: str) -> list[dict[str, str]] | None:
    """The two messages of an s1 record (question, trace, attempt), or None when the record has no such fields.

    Raises TrainingError for empty fields.
    """
    trace_field = next((f for f in TRACES if f in record), None)
    answer_field = next((f for f in ATTEMPTS if f in record), None)
    if "question" not in record or trace_field is None or answer_field is None:
        return None
    trace = record[trace_field]
    if isinstance(trace, list) and all(isinstance(part, str) for part in trace):
        trace = ("\n" + THINK).join(trace)
    return s1_messages(
        _filled(record["question"], "question", name),
        _filled(trace, trace_field, name),
        _filled(record[answer_field], answer_field, name),
    )


def marked_tokens(tokenizer: Tokenizer, text: str, name: str) -> tuple[list[int], list[bool]]:
    """Ids of a conversation that is already rendered as ChatML (s1K's `text` column): assistant turns are trained."""
    spans = [match.span(1) for match in MARKED.finditer(text)]
    if not spans:
        raise TrainingError(
            f"{name}: no {ASSISTANT!r} in the text; render it with the chat template, "
            "or set data.loss: all to train on every token"
        )
    ids = tokenizer.encode(text, specials=True)
    trained = [False] * len(ids)
    for span in spans:
        begin, end = (common(tokenizer.encode(text[:at], specials=True), ids) for at in span)
        trained[begin:end] = [True] * (end - begin)
    return ids, trained
