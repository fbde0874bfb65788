"""s1's text format: one ChatML conversation per sample, thinking and answer inside the assistant's turn.

Source: the s1 release's tokenisation script and section 3 of the paper. Which tokens are trained is decided from the
characters each token covers, never by searching for token patterns (which fails wherever tokens merge).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from train.errors import TrainingError

ASSISTANT = "<|im_start|>assistant\n"
MARKED = re.compile(re.escape(ASSISTANT) + r"(.*?)(?=<\|im_start\|>(?:user|system|tool)\n|\Z)", re.DOTALL)
THINK = "<|im_start|>think\n"
ANSWER = "\n<|im_start|>answer\n"
# s1K, s1K-1.1 and our own names for the same three columns, tried in this order.
TRACES = ("thinking", "deepseek_thinking_trajectory", "thinking_trajectories")
ATTEMPTS = ("deepseek_attempt", "attempt", "answer")


@dataclass(frozen=True)
class Text:
    """A rendered sample. `trained`: character spans that carry loss; None: all of it."""

    text: str
    trained: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True)
class ChatTokenizer:
    """tokenizer.json and the chat template of a Hugging Face directory."""

    tokenizer: Tokenizer
    template: Template | None
    folder: Path

    @staticmethod
    def load(folder: str | Path) -> ChatTokenizer:
        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise TrainingError(f"{folder}: no tokenizer.json; set model.tokenizer to a directory that has one")
        template = None
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            if (folder / "chat_template.jinja").is_file():
                template = (folder / "chat_template.jinja").read_text()
            elif (folder / "tokenizer_config.json").is_file():
                template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
            compiled = None if template is None else _environment().from_string(template)
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise TrainingError(f"{folder}: the tokenizer or its chat template cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return ChatTokenizer(tokenizer, compiled, folder)

    def render(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        """The conversation as text, by the model's own template in a sandbox."""
        if self.template is None:
            raise TrainingError(f"{self.folder}: no chat_template; chat records need one")
        try:
            return self.template.render(messages=messages, add_generation_prompt=add_generation_prompt)
        except TemplateError as error:
            raise TrainingError(f"{self.folder}: the chat template refuses a conversation: {error}") from error

    def encode(self, texts: list[Text]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Token ids [n] int32 and `trained` [n] bool of each text; special tokens in the text are parsed."""
        encodings = self.tokenizer.encode_batch([t.text for t in texts], add_special_tokens=False)
        pairs = []
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.asarray(encoding.ids, dtype=np.int32)
            if text.trained is None:
                trained = np.ones(len(ids), dtype=bool)
            else:
                starts, ends = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2).T
                trained = np.zeros(len(ids), dtype=bool)
                for begin, end in text.trained:
                    trained |= (starts < end) & (ends > begin)
            pairs.append((ids, trained))
        return pairs


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates may use, as in transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _filled(value: Any, field: str, name: str) -> str:
    if not isinstance(value, str):
        raise TrainingError(f"{name}: field {field!r} must be text, not {type(value).__name__}")
    if not value.strip():
        raise TrainingError(f"{name}: field {field!r} is empty; give it or remove the sample")
    return value


def s1_messages(record: dict[str, Any], name: str) -> list[dict[str, str]] | None:
    """The two messages of an s1 record (question, trace, attempt), or None when the record has no such fields.

    "Answer: " is put before an attempt that does not contain "Answer:" (s1's rule). Raises for empty fields.
    """
    trace_field = next((f for f in TRACES if f in record), None)
    answer_field = next((f for f in ATTEMPTS if f in record), None)
    if "question" not in record or trace_field is None or answer_field is None:
        return None
    question = _filled(record["question"], "question", name)
    trace = record[trace_field]
    if isinstance(trace, list) and all(isinstance(part, str) for part in trace):
        trace = ("\n" + THINK).join(trace)
    thinking = _filled(trace, trace_field, name).strip()
    answer = _filled(record[answer_field], answer_field, name)
    if "Answer:" not in answer:
        answer = "Answer: " + answer
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": THINK + thinking + ANSWER + answer.strip()},
    ]


def chat_text(tokenizer: ChatTokenizer, messages: list[dict[str, str]], name: str) -> Text:
    """Renders `messages`; the trained spans run from behind each assistant header to the end of that turn."""
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        raise TrainingError(f"{name}: `messages` must be a list of objects with `role` and `content`, both text")
    text = tokenizer.render(messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.render(messages[:i], add_generation_prompt=True)
        turn = tokenizer.render(messages[: i + 1])
        if not text.startswith(before) or not text.startswith(turn):
            raise TrainingError(
                f"{name}: the chat template of {tokenizer.folder} does not render turn {i} as its generation prompt "
                "plus the turn; the assistant's text cannot be told from the rest"
            )
        spans.append((len(before), len(turn)))
    if not spans:
        raise TrainingError(f"{name}: no assistant message; nothing to train on")
    return Text(text, tuple(spans))


def marked_text(text: str, name: str) -> Text:
    """A conversation that is already rendered as ChatML (s1K's `text` column): assistant turns are trained."""
    spans = tuple(match.span(1) for match in MARKED.finditer(text))
    if not spans:
        raise TrainingError(
            f"{name}: no {ASSISTANT!r} in the text; render it with the chat template, "
            "or set data.loss: all to train on every token"
        )
    return Text(text, spans)
