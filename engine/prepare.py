"""From what a caller gives to what the core takes: a prompt's token ids and a checked thinking plan.

Needs the tokenizer and the limits, not the weights, so a whole input file can be checked before a model is loaded.
"""

import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from engine.config import EngineConfig
from engine.errors import InputError, is_whole, shown, tell
from engine.request import Prompt, SamplingParams
from engine.schedule.sequence import Prepared
from engine.text.continued import WAY_OUT, can_continue, continued_ids
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import (
    TextDelimiters,
    ThinkingFormat,
    encoded_format,
    format_strings,
    inside_thinking,
    make_plan,
)

_FORMATS_KEPT = 64
"""Thinking formats that are kept in token ids; clients may send as many as they like."""
_MOST_SPELLED = 8
"""Sets of plain-text delimiters in the life of an engine: each takes a table of the whole vocabulary on the device."""
_MOST_LABELS = 64
_CONTINUED = (
    "messages end with one of the assistant's, which is continued; continue_final_message false opens a new turn"
)


class Preparer:
    """Checks requests against one model. `context` is min(max_model_len, tokens the page pool holds)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        thinking_format: str,
        context: int,
        max_samples: int = EngineConfig.max_samples,
        max_logprobs: int = EngineConfig.max_logprobs,
    ) -> None:
        """Raises InputError where `thinking_format` does not suit the tokenizer. The last two: see EngineConfig."""
        self.tokenizer, self.context = tokenizer, context
        self._most = {"n": ("max_samples", max_samples), "logprobs": ("max_logprobs", max_logprobs)}
        self._default = thinking_format
        self._encoded = lru_cache(_FORMATS_KEPT)(partial(encoded_format, tokenizer=tokenizer))
        self._spelled, self._lock = set[TextDelimiters](), threading.Lock()
        self._told = False
        """Whether it was said that a last message is continued."""
        self._keep(self.format(None).text)

    def format(self, spec: str | Mapping[str, Any] | None) -> ThinkingFormat:
        """The format that `spec` names in this tokenizer's ids; None is the engine's own."""
        spec = self._default if spec is None else spec
        return self._encoded(format_strings(spec, self.tokenizer))

    def _keep(self, text: TextDelimiters | None) -> None:
        """Room for delimiters of plain text, of requests that are not refused for something else."""
        with self._lock:
            if text is not None and text not in self._spelled and len(self._spelled) >= _MOST_SPELLED:
                raise InputError(
                    f"thinking_format with delimiters {shown([text.opener, *text.triggers])} of plain text is one more "
                    f"than the {_MOST_SPELLED} an engine keeps; use those of earlier requests, or start the engine anew"
                )
            if text is not None:
                self._spelled.add(text)

    def prepare(self, prompt: Prompt, params: SamplingParams) -> Prepared:
        """Render, append the opener, check. Raises InputError naming the field."""
        for field, (bound, most) in self._most.items():
            if (getattr(params, field) or 0) > most:
                asked = getattr(params, field)
                raise InputError(f"{field} is {asked} and the engine's {bound} {most}; lower it, or raise {bound}")
        size = self.tokenizer.size
        if (params.logprobs or 0) > size:
            raise InputError(f"logprobs is {params.logprobs} and the vocabulary has {size} tokens; lower logprobs")
        format = self.format(params.thinking_format)
        ids = self._prompt_ids(prompt, format, params.continue_final_message)
        for name in ("banned_token_ids", "allowed_token_ids"):
            if len(getattr(params, name) or ()) > size:
                raise InputError(
                    f"{name} holds {len(getattr(params, name)):,} ids and the vocabulary {size:,}; name each once"
                )
        for name in ("stop_token_ids", "banned_token_ids", "allowed_token_ids", "logit_bias"):
            self._check_ids(name, tuple(getattr(params, name) or ()))
        plan = make_plan(params, format, ids, self.context, self.tokenizer, self.tokenizer.eos_token_ids)
        self._keep(format.text)
        return Prepared(array("i", ids), params, plan)

    def steps(
        self, prompt: Prompt, steps: Sequence[str | Sequence[int]], mark: str | int | None
    ) -> tuple[array, tuple[int, ...]]:
        """(token ids of prompt and steps, positions of the steps' last tokens, or of the `mark` behind each). Raises
        InputError where there is no step, or one has no tokens."""
        lists = (list, tuple)
        if (
            not isinstance(steps, lists)
            or not steps
            or not all(isinstance(step, (str, array, *lists)) for step in steps)
        ):
            raise InputError(f"steps is {shown(steps)}; give a list of texts or of lists of token ids, at least one")
        ids = self._prompt_ids(prompt, self.format("none"), None)
        reads, behind = [], [] if mark is None else [self._one_id("mark", mark)]
        for number, step in enumerate(steps):
            added: list[int] = [] if isinstance(step, str) else list(step)
            if isinstance(step, str):
                self.tokenizer.extend(added, step, self.context)
            self._check_ids(f"steps[{number}]", added)
            if not added:
                raise InputError(f"steps[{number}] has no tokens; leave it out")
            ids += added + behind
            if len(ids) > self.context:
                raise InputError(
                    f"prompt and steps have {len(ids)} tokens up to steps[{number}], and the context holds "
                    f"{self.context}; score fewer steps, or raise max_model_len or kv_cache_tokens"
                )
            reads.append(len(ids) - 1)
        return array("i", ids), tuple(reads)

    def labels(self, labels: Sequence[str | int], has_head: bool) -> tuple[int, ...]:
        """Token ids of the `labels` that a score is a choice among. Raises InputError where they are not what the model
        needs: none with a head for scores, and two or more without."""
        if not isinstance(labels, (list, tuple)) or len(labels) > _MOST_LABELS:
            raise InputError(f"labels is {shown(labels)}; give a list of at most {_MOST_LABELS} tokens")
        ids = tuple(self._one_id("labels", label) for label in labels)
        if has_head and ids:
            raise InputError("labels are given and the reward model has a head of its own; leave them out")
        if not has_head and len(set(ids)) < max(2, len(ids)):
            raise InputError(
                f"labels is {shown(list(labels))} and the model is no reward model; give two or more tokens to choose "
                "from, each once"
            )
        return ids

    def scored(self, ids: array, reads: tuple[int, ...], labels: tuple[int, ...]) -> Prepared:
        """A request for the scores at `reads`. Raises InputError where the context does not hold it."""
        prompt = ids[: reads[-1] + 1]
        if len(prompt) > self.context:
            raise InputError(
                f"prompt and steps have {len(prompt)} tokens and the context holds {self.context}; score fewer steps, "
                "or raise max_model_len or kv_cache_tokens"
            )
        return self._reading(prompt, reads, labels, None)

    def followed(self, prompt: Prompt, top: int) -> Prepared:
        """A request for the log-probability of every token of `prompt` but the first, and for the `top` likeliest in
        the place of each. Raises InputError naming the field."""
        bound, most = self._most["logprobs"]
        if not is_whole(top, 0, min(most, self.tokenizer.size)):
            raise InputError(
                f"top is {shown(top)}; give a whole number from 0 to {most}, the engine's {bound}, and no more than "
                f"the {self.tokenizer.size} tokens of the vocabulary"
            )
        ids = self._prompt_ids(prompt, self.format(None), None)
        if len(ids) > self.context:
            raise InputError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}; shorten the prompt, or raise "
                "max_model_len or kv_cache_tokens"
            )
        return self._reading(array("i", ids), tuple(range(len(ids) - 1)), (), top)

    def _reading(self, prompt: array, reads: tuple[int, ...], labels: tuple[int, ...], tops: int | None) -> Prepared:
        """Nothing is drawn behind the prompt, so it may fill the context."""
        params = SamplingParams(max_tokens=1, thinking_format="none")
        plan = make_plan(params, self.format("none"), prompt, self.context + 1, self.tokenizer, ())
        return Prepared(prompt, params, plan, reads, labels, tops)

    def _one_id(self, field: str, token: str | int) -> int:
        ids = self.tokenizer.encode(token, specials=True) if isinstance(token, str) else [token]
        self._check_ids(field, ids)
        if len(ids) != 1:
            raise InputError(f"{field} has {shown(token)}, which is {len(ids)} tokens; give one token, or its id")
        return ids[0]

    def _prompt_ids(self, prompt: Prompt, format: ThinkingFormat, continues: bool | None) -> list[int]:
        if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Iterable):
            raise InputError(
                f"the prompt is {type(prompt).__name__}; give text, a list of token ids or {{'messages': [...]}}"
            )
        if prompt == "":
            raise InputError("the prompt is empty; give a question")
        if isinstance(prompt, Mapping) and set(prompt) == {"text"} and isinstance(prompt["text"], str):
            prompt = self.tokenizer.encode(prompt["text"], specials=True, most=self.context)
        if isinstance(prompt, (str, Mapping)):
            if isinstance(prompt, str):
                prompt = {"messages": [{"role": "user", "content": prompt}]}
            if set(prompt) != {"messages"}:
                raise InputError(f"the prompt is an object with {shown(list(prompt))}; give {{'messages': [...]}}")
            messages = prompt["messages"]
            unasked = continues is None and can_continue(messages)
            if continues or unasked:
                ids = continued_ids(self.tokenizer, format, messages, self.context)
                if unasked and not self._told:
                    self._told = True
                    tell(_CONTINUED, "note")
                return ids
            ids = self.tokenizer.render(messages, most=self.context)
            if not ids:
                raise InputError("the chat template renders these messages to nothing; correct it, or give token ids")
            if format.thinks and not inside_thinking(format, ids, self.tokenizer.eos_token_ids, self.tokenizer):
                ids += format.opener
            return ids
        if continues:
            raise InputError(f"continue_final_message is true and the prompt is no messages; {WAY_OUT}")
        ids = list(prompt)
        self._check_ids("prompt_token_ids", ids)
        return ids

    def _check_ids(self, field: str, ids: list[int] | tuple[int, ...]) -> None:
        size = self.tokenizer.size
        if {*map(type, ids)} == {int} and min(ids) >= 0 and max(ids) < size:
            return  # a step of a search brings its whole path: a fifth of what looking at each takes
        for at, token in enumerate(ids):
            if not is_whole(token, 0, size - 1):
                raise InputError(
                    f"{field}[{at}] is {shown(token)}; this tokenizer has the ids 0 to {self.tokenizer.size - 1}"
                )
