"""The configuration of a run: one frozen tree, read from YAML, unknown names refused.

python -m train.sft recipe.yaml optim.lr=2e-5 data.train=[a.jsonl,b.jsonl]
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec
import yaml

from train.errors import TrainingError


@dataclass(frozen=True)
class Model:
    """Where the weights come from: `path` (directory or hub id), or random ones for `init`, a config.json."""

    path: str | None = None
    init: str | None = None
    tokenizer: str | None = None
    """Directory of tokenizer.json and tokenizer_config.json; None: the directory of `path` or `init`."""

    @property
    def source(self) -> str:
        return self.path or self.init or ""


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    train: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    loss: Literal["assistant", "all"] = "assistant"
    """`assistant`: only what the assistant writes; `all`: every token after the first of a document."""
    eos: str | None = None
    """Special token appended to every plain `text` document, or None."""
    max_tokens: int = 32768
    """Longest sample; see `on_too_long`. Nothing is ever cut silently."""
    on_too_long: Literal["error", "drop"] = "error"
    batch_size: int = 16
    """Samples per optimiser step, over all ranks."""
    last_batch: Literal["wrap", "drop"] = "wrap"
    """`wrap`: the epoch's last step is filled with the epoch's first samples (what s1 did); `drop`: left out."""


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up and cosine decay."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    lr: float = 1e-5
    min_lr: float = 0.0
    warmup: float = 0.05
    """Share of all steps, rounded up."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    clip: float = 1.0
    """Largest global gradient norm."""


@dataclass(frozen=True)
class Parallel:
    """How a step is laid over ranks: data-parallel groups of `context` ranks each; FSDP shards over all of them."""

    ranks: int = 1
    """GPUs that `train.plan` reckons with; training itself uses the ranks that torchrun starts."""
    context: int = 1
    """Ranks that share one token stream by gathering keys and values; the GPUs of a node."""
    micro_tokens: int = 16384
    """Tokens per rank and micro-batch; a step with more is accumulated."""


@dataclass(frozen=True)
class Compute:
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of matmuls and activations; master weights, gradients between ranks and the loss are float32."""
    master_dtype: Literal["float32", "bfloat16"] = "float32"
    checkpointing: Literal["none", "selective", "full"] = "full"
    compile: bool = False
    loss_chunk: int = 1024
    """Rows of logits that exist at once."""
    deterministic: bool = False
    gpu_gb: float | None = None
    """Memory of one GPU for the plan's check; None: that of the device at hand."""


@dataclass(frozen=True)
class Lora:
    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Checkpoint:
    every: int = 0
    """Steps between checkpoints; 0: at the end of each epoch."""
    keep: int = 2
    asynchronous: bool = False
    resume: bool = True
    """Go on from the newest complete checkpoint of `run`, if there is one."""
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"


@dataclass(frozen=True)
class Metrics:
    tensorboard: bool = False
    wandb: str | None = None
    """Project name."""
    every: int = 1
    progress: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on."""

    run: str
    """Folder of config.yaml, metrics.jsonl, checkpoints/ and export/."""
    model: Model
    data: Data
    seed: int = 42
    epochs: int = 5
    reduction: Literal["sample_mean", "token_mean"] = "token_mean"
    """Mean over the step's samples of each sample's mean (s1), or mean over the step's tokens."""
    heldout_every: int = 0
    """Steps between held-out losses; 0: at each checkpoint when `data.heldout` is given."""
    optim: Optim = field(default_factory=Optim)
    parallel: Parallel = field(default_factory=Parallel)
    compute: Compute = field(default_factory=Compute)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    metrics: Metrics = field(default_factory=Metrics)
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if bool(self.model.path) == bool(self.model.init):
            raise TrainingError("model: give either model.path (weights) or model.init (a config.json), not both")
        positive = {
            "epochs": self.epochs, "data.batch_size": self.data.batch_size, "data.max_tokens": self.data.max_tokens,
            "parallel.context": self.parallel.context, "parallel.micro_tokens": self.parallel.micro_tokens,
            "compute.loss_chunk": self.compute.loss_chunk, "optim.clip": self.optim.clip, "optim.lr": self.optim.lr,
            "checkpoint.keep": self.checkpoint.keep, "metrics.every": self.metrics.every,
        }  # fmt: skip
        for name, value in positive.items():
            if not value > 0:
                raise TrainingError(f"{name} is {value}; it must be above 0")
        if not 0 <= self.optim.warmup <= 1:
            raise TrainingError(f"optim.warmup is {self.optim.warmup}; it is a share of all steps, between 0 and 1")
        if not self.data.train:
            raise TrainingError("data.train is empty; name at least one JSONL or Parquet file")

    def save(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(msgspec.to_builtins(self), sort_keys=False))


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Reads `path` and applies `a.b=c` overrides (values are YAML).

    Raises TrainingError for an unknown name, a wrong type or a missing file.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise TrainingError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TrainingError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise TrainingError(f"{path}: the configuration must be a mapping, not {type(tree).__name__}")
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise TrainingError(f"override {override!r} must look like optim.lr=1e-5")
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = yaml.safe_load(value)
    return _build(TrainConfig, tree, "", str(path))


def _build(cls: Any, tree: Any, prefix: str, source: str) -> Any:
    if not isinstance(tree, dict):
        raise TrainingError(f"{source}: {prefix.rstrip('.')} must be a mapping, not {tree!r}")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known names: {', '.join(hints)}"
            raise TrainingError(f"{source}: unknown setting {prefix}{name}{hint}")
        nested = next(
            (t for t in (hints[name], *getattr(hints[name], "__args__", ())) if dataclasses.is_dataclass(t)), None
        )
        if nested is not None and value is not None:
            values[name] = _build(nested, value, f"{prefix}{name}.", source)
            continue
        try:
            # Lax: YAML 1.1 reads 1e-5 (no dot) as a string.
            values[name] = msgspec.convert(value, hints[name], strict=False)
        except msgspec.ValidationError as error:
            raise TrainingError(f"{source}: {prefix}{name} is {value!r}: {error}") from error
    missing = [
        f.name for f in dataclasses.fields(cls)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise TrainingError(f"{source}: {prefix}{missing[0]} is missing")
    return cls(**values)
