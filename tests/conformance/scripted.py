"""Scripted checkpoints: real Qwen2 directories whose greedy next token depends on the current token alone.

The embedding is one-hot, attention's and the MLP's output projections are zero, the final norm brings the state back
to the one-hot vector and the head holds one column of logits per current token. Any engine that loads Qwen2 can be
driven through a written sequence this way, black box, together with its tokenizer, templates and EOS ids.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

WORDS = (
    "think",
    "answer",
    "Final",
    " Answer",
    "Wait",
    "Hmm",
    " so",
    ".\n\n",
    ".\n",
    "\n\n",
    "system",
    "user",
    "assistant",
)
"""Pieces that are one token each, next to the 256 bytes and what their merges leave on the way."""

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\nBe brief.<|im_end|>\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{#- in the format of s1 -#}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
BEST, STEP = 24.0, 2.0
"""Logits of the first choice and the distance to the next one; every token that is not listed has 0."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer by name: text (`"Wait"`), a special token, or raw bytes (`b"\\xe2"`)."""

    tokenizer: Tokenizer
    specials: tuple[str, ...]
    bytes_of: tuple[bytes, ...]
    ids: dict[bytes, int] = field(default_factory=dict)
    script: dict[int, list[int]] = field(default_factory=dict)
    """Of a scripted checkpoint: current token -> its choices, best first."""

    @property
    def size(self) -> int:
        return len(self.bytes_of)

    @property
    def eos(self) -> tuple[int, ...]:
        return self[IM_END], self[END_OF_TEXT]

    def __getitem__(self, name: str | bytes) -> int:
        return self.ids[name.encode() if isinstance(name, str) else name]

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text` with special tokens parsed."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokens(self, *names: str | bytes) -> list[int]:
        return [self[name] for name in names]

    def text(self, ids: Sequence[int]) -> str:
        """The bytes of `ids` as UTF-8; a maximal broken part becomes one replacement character."""
        return b"".join(self.bytes_of[i] for i in ids).decode("utf-8", errors="replace")


def _byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in keep}
    letters.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in letters)})
    return letters


def make_tokenizer(specials: Sequence[str] = (), words: Sequence[str] = WORDS) -> Tokenizer:
    """A byte-level BPE like Qwen2.5's: 256 bytes, the merges that make each of `words` one token, special tokens."""
    letters = _byte_letters()
    vocab = {letters[b]: b for b in range(256)}
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [letters[b] for b in word.encode()]
        ranks = {pair: i for i, pair in enumerate(merges)}
        while len(pieces) > 1:
            pairs = [(ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(pieces))]
            rank, at = min(pairs)
            if rank == len(ranks):
                at = 0
                ranks[(pieces[0], pieces[1])] = len(merges)
                merges.append((pieces[0], pieces[1]))
                vocab.setdefault(pieces[0] + pieces[1], len(vocab))
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, IM_START, IM_END, *specials)]
    )
    return tokenizer


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Every token's bytes, read back from the tokenizer itself."""
    values = {letter: byte for byte, letter in _byte_letters().items()}
    added = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()}
    names = [
        added[i].encode() if i in added else bytes(values[c] for c in tokenizer.id_to_token(i))
        for i in range(tokenizer.get_vocab_size())
    ]
    ids = {name: i for i, name in enumerate(names)}
    return Vocabulary(tokenizer, tuple(added.values()), tuple(names), ids)


def write_tokenizer(directory: Path, tokenizer: Tokenizer, chat_template: str = CHATML) -> None:
    """tokenizer.json, tokenizer_config.json and generation_config.json with both of Qwen2.5's EOS ids."""
    vocabulary = vocabulary_of(tokenizer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "chat_template": chat_template,
        "model_max_length": 131072,
        "added_tokens_decoder": {
            str(vocabulary[text]): {
                "content": text,
                "special": True,
                "normalized": False,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
            }
            for text in vocabulary.specials
        },
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": list(vocabulary.eos)}))


def write_scripted_checkpoint(
    directory: Path,
    table: Mapping[str | bytes, Sequence[str | bytes]],
    default: Sequence[str | bytes] = (IM_END, "~", "^"),
    specials: Sequence[str] = (),
    chat_template: str = CHATML,
    nan_after: Sequence[str | bytes] = (),
    phantom: bool = False,
    best: float = BEST,
    step: float = STEP,
    max_position_embeddings: int = 4096,
    words: Sequence[str] = (),
) -> Vocabulary:
    """Write a checkpoint that follows `table`: current token -> choices, best first. Others follow `default`.

    After a token of `nan_after` the unlisted logits are NaN. With `phantom` the best logit of every context belongs to
    a row past the tokenizer's size, an id that does not exist. Choice i has the logit `best - i * step`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(specials, (*WORDS, *words))
    vocabulary = vocabulary_of(tokenizer)
    write_tokenizer(directory, tokenizer, chat_template)
    rows = -(-(vocabulary.size + 1) // 64) * 64
    head = torch.zeros(rows, rows)
    choices = {token: vocabulary.tokens(*default) for token in range(rows)}
    choices.update({vocabulary[name]: vocabulary.tokens(*ranked) for name, ranked in table.items()})
    for token, ranked in choices.items():
        for rank, choice in enumerate(ranked):
            head[choice, token] = best - rank * step
    if phantom:
        head[vocabulary.size :] = best + step
    vocabulary.script.update(choices)
    norm = torch.full((rows,), rows**-0.5)
    for name in nan_after:
        norm[vocabulary[name]] = 3e38  # times sqrt(rows): infinite, and infinity times an unlisted 0 is NaN
    write_model(
        directory,
        rows,
        {
            "model.embed_tokens.weight": torch.eye(rows) * rows**0.5,
            "model.norm.weight": norm,
            "lm_head.weight": head,
        },
        max_position_embeddings,
    )
    return vocabulary


def write_model(directory: Path, rows: int, outer: Mapping[str, torch.Tensor], max_position_embeddings: int) -> None:
    """config.json and safetensors of a one-layer Qwen2 of width `rows` whose layer adds nothing to its input."""
    heads, head_dim, inner = 2, 16, 16
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    layer = {
        "input_layernorm.weight": torch.ones(rows),
        "post_attention_layernorm.weight": torch.ones(rows),
        "self_attn.o_proj.weight": torch.zeros(rows, heads * head_dim),
        "mlp.gate_proj.weight": noise(inner, rows),
        "mlp.up_proj.weight": noise(inner, rows),
        "mlp.down_proj.weight": torch.zeros(rows, inner),
    }
    for part in "qkv":
        layer[f"self_attn.{part}_proj.weight"] = noise(heads * head_dim, rows)
        layer[f"self_attn.{part}_proj.bias"] = noise(heads * head_dim)
    tensors = {**outer, **{f"model.layers.0.{name}": value for name, value in layer.items()}}
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["Qwen2ForCausalLM"],
                "model_type": "qwen2",
                "vocab_size": rows,
                "hidden_size": rows,
                "intermediate_size": inner,
                "num_hidden_layers": 1,
                "num_attention_heads": heads,
                "num_key_value_heads": heads,
                "head_dim": head_dim,
                "hidden_act": "silu",
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0,
                "max_position_embeddings": max_position_embeddings,
                "tie_word_embeddings": False,
                "torch_dtype": "float32",
                "use_sliding_window": False,
            }
        )
    )
