"""A random checkpoint in which greedy decoding often draws the delimiters, and the judge of what an engine made of it.

The weights are random, so every token depends on everything before it through real attention: a page, a position or a
replaced draw that is wrong shows. The judge feeds the committed ids to transformers and lets the oracle walk the table
with transformers' logits: every unforced token must be the (masked) argmax at its position, every forced one must be
where the table puts it, and the thought must end when and why the table says.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from engine import SamplingParams
from engine.model.config import ModelConfig
from engine.request import Completion
from tests.checkpoints import write_random_checkpoint
from tests.conformance.scripted import END_OF_TEXT, IM_END, IM_START, Vocabulary, vocabulary_of
from tests.conformance.simulate import Format, Outcome, Texts, simulate
from tests.rounding import decoder_roundings, likely

CONTEXT = 192


@dataclass(frozen=True)
class World:
    """The checkpoint, its transformers model and its tokens."""

    directory: Path
    model: Any
    vocabulary: Vocabulary

    def format(self, strings: dict[str, Any]) -> Format:
        encode = self.vocabulary.encode
        return Format(
            encode(strings["opener"]),
            encode(strings["end"]),
            encode(strings["budget_end"]),
            tuple(encode(t) for t in strings["triggers"]),
        )

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """[len(ids), size] float32: row i follows ids[: i + 1]."""
        return self.model(torch.tensor([list(ids)])).logits[0, :, : self.vocabulary.size].float()

    @torch.inference_mode()
    def raised(self, ids: Sequence[int]) -> torch.Tensor:
        """As `logits`; of those that rounding may bring as near to each other, what `ids` has next is the largest."""
        logits, chosen = self.logits(ids), torch.tensor(ids[1:])[:, None]
        off = 4 * likely(decoder_roundings(ModelConfig.load(self.directory), CONTEXT)) * float(logits.abs().max())
        logits[:-1] += torch.zeros_like(logits[:-1]).scatter(1, chosen, off)
        return logits

    @torch.inference_mode()
    def logits_after(self, ids: torch.Tensor) -> torch.Tensor:
        """[B, size] float32 after each row of `ids` [B, T]."""
        return self.model(ids).logits[:, -1, : self.vocabulary.size].float()

    def judge(
        self, prompt: Sequence[int], done: Completion, params: SamplingParams, strings: dict[str, Any]
    ) -> Outcome:
        """Raises AssertionError unless `done` is what the table makes of transformers' logits."""
        ids = [*prompt, *done.token_ids]
        logits = self.raised(ids)
        order = logits.argsort(dim=1, descending=True, stable=True)

        def ranking(history: list[int]) -> list[int]:
            at = len(history) - 1
            assert history == ids[: at + 1], f"position {at + 1 - len(prompt)} of {done.token_ids}"
            assert at < len(ids), "the engine ended too early"
            return order[at].tolist()

        encode = self.vocabulary.encode
        end = params.thinking_end_str
        texts = Texts(
            self.vocabulary["\n"],
            self.vocabulary.eos,
            self.vocabulary.bytes_of,
            encode(params.thinking_extension_str),
            None if end is None else encode(end),
        )
        want = simulate(ranking, self.format(strings), params, prompt, texts, CONTEXT)
        assert (done.token_ids, done.forced) == (want.token_ids, want.forced)
        assert (done.thinking.tokens, done.thinking.extensions) == (want.thinking_tokens, want.extensions)
        assert (done.thinking.stop_reason, done.finish_reason) == (want.stop_reason, want.finish_reason)
        return want


def make_world(directory: Path, **shape: Any) -> World:
    """Write the checkpoint; then rename tokens so that what greedy decoding writes most is `<|im_start|>`, and a token
    it writes now and then is `<|im_end|>`: rows of the embedding and of the head change places.
    """
    write_random_checkpoint(directory, **({"heads": 4, "kv_heads": 2, "seed": 5} | shape))
    vocabulary = vocabulary_of(Tokenizer.from_file(str(directory / "tokenizer.json")))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    frequent = [token for token, _ in common_tokens(model, vocabulary)]
    names = iter(t for t in frequent if t >= 256 or chr(t).isalnum())
    places = {IM_START: next(names), IM_END: frequent[min(9, len(frequent) - 1)]}
    tensors = load_file(directory / "model.safetensors")
    for text, token in places.items():
        pair, other = [vocabulary[text], token], [token, vocabulary[text]]
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name][pair] = tensors[name][other]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "eos_token_id": vocabulary[IM_END]}))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return World(directory, model, vocabulary)


@torch.inference_mode()
def common_tokens(model: Any, vocabulary: Vocabulary, prompts: int = 24, length: int = 40) -> list[tuple[int, int]]:
    """(token, how often greedy decoding writes it), most frequent first, over random prompts."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 256, (prompts, 6), generator=generator)
    for _ in range(length):
        logits = model(ids).logits[:, -1, : vocabulary.size]
        logits[:, [vocabulary[END_OF_TEXT], vocabulary[IM_START], vocabulary[IM_END]]] = -1e9
        ids = torch.cat([ids, logits.argmax(1, keepdim=True)], 1)
    return Counter(ids[:, 6:].flatten().tolist()).most_common()


@torch.inference_mode()
def step_format(world: World, prompts: int = 24, length: int = 60) -> dict[str, Any]:
    """A format with several-token triggers that greedy decoding completes: `<|im_start|>` and what often follows it."""
    vocabulary = world.vocabulary
    start = vocabulary[IM_START]
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 256, (prompts, 6), generator=generator)
    for _ in range(length):
        ids = torch.cat([ids, world.logits_after(ids).argmax(1, keepdim=True)], 1)
    pairs = Counter(b for row in ids.tolist() for a, b in itertools.pairwise(row) if a == start)
    texts = [
        text
        for token, _ in pairs.most_common()
        if token not in (start, *vocabulary.eos)
        and "�" not in (text := vocabulary.text([token]))
        and vocabulary.encode(IM_START + text) == (start, token)
    ]
    return {
        "opener": "<|im_start|>think",
        "end": "<|im_start|>answer",
        "budget_end": "<|im_start|>answer\nFinal Answer:",
        "triggers": [IM_START + text for text in texts[:3]],
    }
