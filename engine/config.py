"""Frozen configuration of the engine; derived values are properties."""

from dataclasses import asdict, dataclass
from typing import Any

from engine.errors import InputError, is_whole, shown

_INDIFFERENT = (
    *("model", "adapter", "max_num_seqs", "max_num_batched_tokens", "max_waiting"),
    *("max_samples", "max_logprobs", "enable_prefix_caching", "overlap", "capture_at_start"),
)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How to load and run one model. Sizes are in tokens unless they say otherwise."""

    model: str = "models/s1-nano"
    """Checkpoint directory in the Hugging Face layout, a hub id, or a GGUF file."""
    adapter: str | None = None
    """Directory of a LoRA in PEFT's format, which is added to the weights while they are loaded."""
    device: str = "auto"
    """`auto` (the local CUDA device if there is one, otherwise the CPU), `cpu`, `cuda` or `cuda:N`."""
    dtype: str = "auto"
    """`auto` (the checkpoint's), `float32`, `bfloat16` or `float16`."""
    quantization: str = "none"
    """`int8` or `fp8`: the layers' matrices in 8 bits with a scale per output, made while loading; `none`."""
    kv_cache_dtype: str = "auto"
    """Of keys and values: `auto` (the model's) or `fp8` (twice the tokens)."""
    load_format: str = "auto"
    """`auto` reads safetensors; `dummy` makes random weights on the device from `config.json` alone."""
    generation_config: str = "none"
    """`auto` takes sampling defaults from generation_config.json; `none` leaves SamplingParams' own."""
    tensor_parallel_size: int = 1
    """Processes, one per device, that share the weights."""
    one_shot_all_reduce: bool = False
    """With several CUDA devices: short all-reduces, and norms behind them, over symmetric memory instead of NCCL."""
    max_model_len: int | None = None
    """Longest prompt + output. None: the checkpoint's max_position_embeddings."""
    max_num_seqs: int = 64
    """Sequences that run at once: the number of slots."""
    max_num_batched_tokens: int = 2048
    """Tokens of one step: decodes first, the rest for prefill chunks."""
    max_waiting: int = 100_000
    """Requests that may queue; `submit` refuses the next one."""
    max_samples: int = 1024
    """Most samples of one request (`n`): they stand in the queue together, before whoever comes later."""
    max_logprobs: int = 64
    """Most alternatives per token that a request may ask for (`logprobs`): each is kept until the request ends."""
    kv_cache_tokens: int | None = None
    """Tokens the page pool holds. None: what memory allows, at most max_num_seqs full contexts."""
    page_size: int = 64
    """Tokens per page of the KV cache. On a CPU with bf16 instructions bf16 attention wants a multiple of 64."""
    enable_prefix_caching: bool = True
    """Keep full pages of finished and running sequences for reuse by content."""
    thinking_format: str = "auto"
    """`auto` (by the checkpoint), a preset of `engine.thinking.formats`, or a JSON object with opener, end, budget_end,
    triggers and, if need be, answer_opener and answer_end."""
    overlap: bool | None = None
    """Launch step n+1 before the host has read step n. None: on CUDA only."""
    step_graphs: str = "auto"
    """Padded decode steps, captured as CUDA graphs: `auto` (on CUDA), `on` (a CPU calls the padded step), `off`."""
    capture_at_start: bool = False
    """Capture the graphs of greedy and sampled steps before the first request, not when a step first needs one."""
    seed: int = 0
    """Seed of requests that bring none, and of `load_format="dummy"`."""

    @property
    def decisive(self) -> dict[str, Any]:
        """Every field that a result may depend on: all but where the model is, what runs at once and what waits."""
        return {name: value for name, value in asdict(self).items() if name not in _INDIFFERENT}

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if not is_whole(value, least, _MOST) and (value is not None or name not in _MAY_BE_NONE):
                raise InputError(f"{name} is {shown(value)}; give a whole number from {least} to 2^63 - 1")
        for name, kinds, wanted in _KINDS:
            if not isinstance(getattr(self, name), kinds):
                raise InputError(f"{name} is {shown(getattr(self, name))}; give {wanted}")
        choices = {
            "dtype": ("auto", "float32", "bfloat16", "float16"),
            "load_format": ("auto", "dummy"),
            "generation_config": ("none", "auto"),
            "step_graphs": ("auto", "on", "off"),
            "quantization": ("none", "int8", "fp8"),
            "kv_cache_dtype": ("auto", "fp8"),
        }
        if self.adapter is not None and self.load_format == "dummy":
            raise InputError(
                "adapter is set and load_format is dummy, which has no weights to add it to; leave one out"
            )
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {shown(getattr(self, name))}; give one of {', '.join(allowed)}")


_MOST = 2**63 - 1
_WHOLE = {
    **dict.fromkeys(("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens", "max_waiting"), 1),
    **dict.fromkeys(("max_samples", "page_size", "max_model_len", "kv_cache_tokens"), 1),
    **dict.fromkeys(("max_logprobs", "seed"), 0),
}
"""Integer fields and their least value; what a machine holds of them is checked before it is allocated."""

_MAY_BE_NONE = ("max_model_len", "kv_cache_tokens")

_KINDS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    *((name, (str,), "a string") for name in ("model", "device", "thinking_format")),
    *(
        (name, (bool,), "true or false")
        for name in ("one_shot_all_reduce", "enable_prefix_caching", "capture_at_start")
    ),
    ("overlap", (bool, type(None)), "true, false or None"),
    ("adapter", (str, type(None)), "a string or None"),
)
"""Other fields, what they may be, and what that is called."""
