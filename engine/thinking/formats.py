"""Thinking formats as text: how each family of models marks its thinking, and which one a checkpoint belongs to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class FormatStrings:
    """How a model family marks thinking, as text. An empty opener means that the model does not think."""

    opener: str
    end: str
    budget_end: str
    triggers: tuple[str, ...]
    answer_opener: str = ""
    """What the model writes around its answer, which is no part of it: before ..."""
    answer_end: str = ""
    """... and behind. Empty where there is nothing."""


_THINK = FormatStrings("<think>\n", "</think>", "</think>\n\n", ("</think>",))

PRESETS = {
    "s1": FormatStrings(
        "<|im_start|>think", "<|im_start|>answer", "<|im_start|>answer\nFinal Answer:", ("<|im_start|>",)
    ),
    "qwen3": _THINK,
    "deepseek_r1": _THINK,
    "am_thinking": FormatStrings(
        _THINK.opener, _THINK.end, "</think>\n<answer>\n", _THINK.triggers, "<answer>", "</answer>"
    ),
    "sky_t1": FormatStrings(
        "<|begin_of_thought|>\n\n",
        "<|end_of_thought|>",
        "<|end_of_thought|>\n\n<|begin_of_solution|>\n\n",
        ("<|end_of_thought|>",),
        "<|begin_of_solution|>",
        "<|end_of_solution|>",
    ),
    "exaone": FormatStrings("<thought>\n", "</thought>", "</thought>\n\n", ("</thought>",)),
    "magistral": FormatStrings("[THINK]", "[/THINK]", "[/THINK]", ("[/THINK]",)),
    "none": FormatStrings("", "", "", ()),
}
"""By name. `qwen3` is that of all models that write `<think>`: Qwen3, QwQ, OpenThinker2 and 3, Light-R1, Skywork-OR1;
`sky_t1` that of Sky-T1, OpenThinker and Bespoke-Stratos."""


class Checkpoint(Protocol):
    """What tells of a checkpoint's format."""

    @property
    def names(self) -> Sequence[str]:
        """What it is called."""

    @property
    def template_source(self) -> str | None:
        """Its chat template."""

    def special_id(self, text: str) -> int | None: ...


class Choice(NamedTuple):
    """A preset, and why it is that one."""

    preset: str
    reason: str


_BY_NAME = (
    (r"(?<![a-z0-9])s1(\.1)?(?![a-z0-9])", "s1"),
    (r"sky-t1|openthinker-|bespoke-stratos", "sky_t1"),
    (r"openthinker[23]|light-r1|qwq-32b(?!-preview)|r1-distill|skywork-or1|deepscaler|deepcoder", "qwen3"),
    (r"am-thinking", "am_thinking"),
    (r"exaone-deep", "exaone"),
    (r"magistral", "magistral"),
)
"""What the names of checkpoints say, whatever their tokenizers have."""
_NOT_THINKING = r"instruct-2507"
"""Of a family whose tokenizer has `<think>`, those that do not write it."""
_BY_TEMPLATE = (
    (r"(?<![A-Za-z0-9])s1(?![A-Za-z0-9])|<\|im_start\|>think", "s1"),
    (re.escape("<|begin_of_thought|>"), "sky_t1"),
    (re.escape("[THINK]"), "magistral"),
    (re.escape("<thought>"), "exaone"),
    (re.escape("<think>"), "qwen3"),
)


def choose_format(checkpoint: Checkpoint) -> Choice:
    """What `auto` is: `qwen3` where `<think>` is a token of its own, otherwise what name or template say, or `none`."""
    names = [name.lower() for name in checkpoint.names]
    named = [(preset, name) for pattern, preset in _BY_NAME for name in names if re.search(pattern, name)]
    if checkpoint.special_id("<think>") is not None:
        silent = next((name for name in names if re.search(_NOT_THINKING, name)), None)
        if silent is not None:
            return Choice("none", f"the tokenizer has <think>, but {silent} does not write it")
        own = next((pair for pair in named if pair[0] == "am_thinking"), None)
        return Choice(*own) if own else Choice("qwen3", "<think> is a token of its own")
    if named:
        preset, name = named[0]
        return Choice(preset, f"the model is called {name}")
    template = checkpoint.template_source or ""
    for pattern, preset in _BY_TEMPLATE:
        if found := re.search(pattern, template):
            return Choice(preset, f"the chat template says {found[0]}")
    return Choice("none", "neither tokenizer, name nor chat template tells of one; thinking_format chooses another")
