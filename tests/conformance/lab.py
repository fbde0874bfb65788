"""A scripted engine, its vocabulary and the oracle side by side."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import Engine, SamplingParams
from engine.request import Completion, RequestOutput
from tests.conformance.cases import FORMATS, Case, encode_format
from tests.conformance.scripted import IM_END, IM_START, Vocabulary
from tests.conformance.simulate import Outcome, simulate

PRESETS = ("s1", "qwen3", "deepseek_r1", "none")
THINK = "<|im_start|>think"
Name = str | bytes
Script = dict[Name, list[Name]]


def path(*names: Name) -> Script:
    """A script that goes through `names` in turn."""
    return {here: [there, "~", "^"] for here, there in itertools.pairwise(names)}


ANSWERS: Script = {
    **path("answer", "A", "B", "C"),
    "C": [IM_END, "D", "E"],
    **path("D", "E", "F"),
    "F": [IM_END, "G", "H"],
    **path(":", "X", "Y"),
    "Y": [IM_END, "Z", "^"],
    **path("Z", "X"),
}
"""After `answer`: ABC and EOS. After `Final Answer:`: XY and EOS."""

STORY: Script = {
    **path("think", "a", "b", "c", "d", "e"),
    "e": [IM_START, "f", "g"],
    **path("f", "g", "h"),
    "h": [IM_START, "i", "j"],
    **path("i", "j", "k"),
    "k": [IM_START, "l", "m"],
    **path("Wait", "p", "q"),
    "q": [IM_START, "r", "s"],
    **path("r", "s", "t"),
    "t": [IM_START, "u", "v"],
    "\n": ["n", "o", "^"],
    IM_START: ["Q", "W", "^"],
    **ANSWERS,
}
"""Thinking abcde, then the trigger, after which the model would write no `answer`; after `Wait`, pq and the trigger."""

ENDLESS: Script = {
    **path(*("think", *"abcdefghijklmnopqrstuvwxyz", "a")),
    "Wait": ["a", "b"],
    "\n": ["a", "b"],
    **ANSWERS,
}
"""Thinking that never ends by itself: the alphabet over and over."""


@dataclass(frozen=True)
class Lab:
    """An engine on a scripted checkpoint; greedy unless a test says otherwise."""

    engine: Engine
    vocabulary: Vocabulary
    context: int
    directory: Path

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens parsed."""
        return list(self.vocabulary.encode(text))

    def text(self, ids: Sequence[int]) -> str:
        return self.vocabulary.text(ids)

    def show(self, done: Completion) -> str:
        """The response with what the engine wrote in braces: `ab{<|im_start|>answer}A`."""
        shown, forced = "", set(done.forced)
        for i, token in enumerate(done.token_ids):
            shown += "{" * (i in forced and i - 1 not in forced) + "}" * (i not in forced and i - 1 in forced)
            shown += self.text([token])
        return shown + "}" * (len(done.token_ids) - 1 in forced)

    def params(self, format: str | None = None, **params: Any) -> SamplingParams:
        """`format` is a preset or one of `cases.FORMATS`; None is the engine's own."""
        if format is not None:
            params["thinking_format"] = format if format in PRESETS else json.dumps(FORMATS[format])
        return SamplingParams(**params)

    def request(self, prompt: str | Sequence[int] = THINK, format: str | None = None, **params: Any) -> RequestOutput:
        """One request; the prompt's special tokens are parsed and nothing is added to it."""
        ids = self.ids(prompt) if isinstance(prompt, str) else list(prompt)
        return self.engine.generate([ids], self.params(format, **params))[0]

    def ask(self, prompt: str | Sequence[int] = THINK, format: str | None = None, **params: Any) -> Completion:
        """As `request`; the completion, compared with the oracle on the way."""
        done = self.request(prompt, format, **params)
        case = Case(format or self.default_format, SamplingParams(**params), tuple(done.prompt_token_ids))
        self.agree(done, self.oracle(case), case)
        return done.outputs[0]

    def ask_all(self, requests: Sequence[dict[str, Any]]) -> list[Completion]:
        """Many requests at once (each the arguments of `ask`), every one compared with the oracle."""
        prompts, formats, knobs = [], [], []
        for request in requests:
            request = {"prompt": THINK, "format": None, **request}
            prompt = request.pop("prompt")
            prompts.append(self.ids(prompt) if isinstance(prompt, str) else list(prompt))
            formats.append(request.pop("format"))
            knobs.append(request)
        params = [self.params(format, **knob) for format, knob in zip(formats, knobs, strict=True)]
        outputs = self.engine.generate(prompts, params)
        for prompt, format, knob, done in zip(prompts, formats, knobs, outputs, strict=True):
            case = Case(format or self.default_format, SamplingParams(**knob), tuple(prompt))
            self.agree(done, self.oracle(case), case)
        return [done.outputs[0] for done in outputs]

    @property
    def default_format(self) -> str:
        return "qwen3" if "<think>" in self.vocabulary.specials else "s1"

    def ranking(self, history: Sequence[int]) -> list[int]:
        """The script's choices after `history`, best first; then every id there is, as their logits are equal."""
        return [*self.vocabulary.script[history[-1]], *range(self.vocabulary.size)]

    def oracle(self, case: Case) -> Outcome:
        fmt = encode_format(case.format, self.vocabulary)
        return simulate(self.ranking, fmt, case.params, case.prompt, case.texts(self.vocabulary), self.context)

    def agree(self, done: RequestOutput, want: Outcome, case: Case) -> None:
        """Everything that the specification promises about one greedy completion."""
        got, texts = done.outputs[0], case.texts(self.vocabulary)
        assert (self.text(got.token_ids), got.token_ids) == (self.text(want.token_ids), want.token_ids), case
        assert got.forced == want.forced, case
        assert (got.finish_reason, got.thinking.stop_reason) == (want.finish_reason, want.stop_reason), case
        assert (got.thinking.tokens, got.thinking.extensions) == (want.thinking_tokens, want.extensions), case
        assert got.thinking.forced_tokens == done.usage.forced_tokens == len(want.forced), case
        assert done.usage.reasoning_tokens == want.reasoning_tokens, case
        assert done.usage.completion_tokens == len(want.token_ids), case
        if not case.params.stop_token_ids:
            assert (got.text, got.reasoning, got.answer) == want.texts(texts), case
