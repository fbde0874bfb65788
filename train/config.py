"""The configuration of a run: one frozen tree, read from YAML, unknown names refused.

python -m train.sft recipe.yaml optim.lr=2e-5 data.train=[a.jsonl,b.jsonl]
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from msgspec import Meta, Struct, to_builtins

from engine.errors import shown
from engine.struct_file import read_struct
from engine.whole_file import write_whole

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Beta = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]
Layer = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A group of settings; `load_config` checks names, types and ranges."""


class Model(Section, frozen=True):
    """Where the weights come from: `path` (directory or hub id), or random ones for `init`, a config.json."""

    path: str | None = None
    """Checkpoint directory or hub id of the weights to start from."""
    init: str | None = None
    """A config.json, for which random weights are made instead."""
    tokenizer: str | None = None
    """Directory of tokenizer.json and tokenizer_config.json; None: the directory of `path` or `init`."""

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.init):
            given = f"path is {shown(self.path)} and init is {shown(self.init)}"
            raise ValueError(
                f"{given}; give one of them: the folder or hub id of weights, or a config.json to begin from"
            )


class Data(Section, frozen=True):
    """What is trained on."""

    train: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Files of samples, patterns, or hub:OWNER/NAME[/FILE]."""
    heldout: tuple[str, ...] = ()
    """The same, of samples whose loss is measured and that are never trained on."""
    heldout_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of `train` that is held out instead, by a hash of the samples' tokens: the same ones in every run."""
    loss: Literal["assistant", "all"] = "assistant"
    """`assistant`: only what the assistant writes; `all`: every token after the first of a document."""
    eos: str | None = None
    """Special token appended to every plain `text` document, or None."""
    max_tokens: Count = 32768
    """Longest sample; see `on_too_long`. Nothing is ever cut silently."""
    on_too_long: Literal["error", "drop"] = "error"
    """A sample above `max_tokens` ends the run before its first step (`error`), or is left out (`drop`)."""
    batch_size: Count = 16
    """Samples per optimiser step, over all ranks."""
    last_batch: Literal["wrap", "drop"] = "wrap"
    """`wrap`: the epoch's last step is filled with the epoch's first samples (what s1 did); `drop`: left out."""

    def __post_init__(self) -> None:
        if self.heldout and self.heldout_share:
            given = f"heldout is {shown(list(self.heldout))} and heldout_share is {self.heldout_share:g}"
            raise ValueError(f"{given}; give one of them: files, or a share of data.train")


class Optim(Section, frozen=True):
    """AdamW with linear warm-up and cosine decay."""

    kind: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps its moments in 8 bits; it needs the package torchao."""
    lr: Annotated[float, Meta(gt=0, le=1)] = 1e-5
    """Highest learning rate, where the warm-up ends."""
    min_lr: Share = 0.0
    """Learning rate that the cosine ends at."""
    warmup: Share = 0.05
    """Share of all steps, rounded up."""
    warmup_from: Share | None = None
    """Share of `lr` that the first step has. None: one step of the ramp, so that it is not lost; 0 in Hugging Face's
    Trainer, and in s1."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the mean gradient and of the mean square."""
    eps: Positive = 1e-8
    """Added to the root of the mean square."""
    weight_decay: Share = 1e-4
    """Of matrices only: biases and norms have none."""
    clip: Positive = 1.0
    """Largest global gradient norm."""

    def __post_init__(self) -> None:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr is {self.min_lr:g} and lr is {self.lr:g}; the rate falls to min_lr: lower it")


class Parallel(Section, frozen=True):
    """How a step is laid over ranks: data-parallel groups of `context` ranks each; FSDP shards over all of them."""

    ranks: Count = 1
    """GPUs that `train.plan` reckons with; training itself uses the ranks that torchrun starts."""
    context: Count = 1
    """Ranks that share one token stream by gathering keys and values; the GPUs of a node."""
    micro_tokens: Count = 16384
    """Tokens per rank and micro-batch; a step with more is accumulated."""


class Compute(Section, frozen=True):
    """Device, number formats, and what is recomputed, compiled and checked."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: a GPU where there is one, otherwise the CPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matmuls and activations; master weights, gradients between ranks and the loss are float32. `auto`: bfloat16 on
    a GPU, and on a processor that multiplies it; float32 on others, where bfloat16 is slower."""
    master_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that the optimiser changes."""
    checkpointing: Literal["none", "selective", "full"] = "full"
    """What the backward pass computes again: nothing, all but attention and every second matmul, or whole layers."""
    compile: bool = False
    """Compile what each layer does before and after attention."""
    loss_chunk: Count = 1024
    """Rows of logits that exist at once."""
    deterministic: bool = False
    """Use PyTorch's deterministic algorithms alone."""
    gpu_gb: Positive | None = None
    """Memory of one GPU for the plan's check; None: that of the device at hand."""


class Lora(Section, frozen=True):
    """Low-rank adapters: everything else is frozen."""

    rank: Count = 16
    """Of the two matrices that are added to a layer."""
    alpha: Positive = 32.0
    """What they add is multiplied by alpha / rank."""
    targets: Annotated[tuple[Layer, ...], Meta(min_length=1)] = Layer.__args__  # type: ignore[attr-defined]
    """Layers that get an adapter."""


class Checkpoint(Section, frozen=True):
    """What is saved to go on from, and in which format the model is exported."""

    every: Annotated[int, Meta(ge=0)] = 0
    """Steps between checkpoints; 0: at the end of each epoch."""
    keep: Count = 2
    """Newest checkpoints that stay."""
    asynchronous: bool = False
    """Write them while training goes on."""
    resume: bool = True
    """Go on from the newest complete checkpoint of `run`, if there is one."""
    export_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16, unless rounding to it would take back some of what was learned; float32 then."""


class Metrics(Section, frozen=True):
    """Where the figures of a step go, besides `metrics.jsonl`."""

    tensorboard: bool = False
    """Also into `tensorboard/` of the run's folder; needs the package."""
    wandb: str | None = None
    """Project name."""
    every: Count = 1
    """Steps from one record to the next; the last step and held-out losses are always told."""
    progress: bool = True
    """A line of progress on stderr."""


class TrainConfig(Section, frozen=True):
    """Everything a run depends on."""

    run: str
    """Folder of config.yaml, metrics.jsonl, checkpoints/ and export/."""
    model: Model
    data: Data
    seed: Annotated[int, Meta(ge=0)] = 42
    """Of the order of samples, and of weights that start at random."""
    epochs: Count = 5
    """How often all of the data is gone through."""
    reduction: Literal["sample_mean", "token_mean"] = "token_mean"
    """Mean over the step's samples of each sample's mean (s1), or mean over the step's tokens."""
    heldout_every: Annotated[int, Meta(ge=0)] = 0
    """Steps between held-out losses, of which one is before the first step; 0: at each checkpoint. Where there is
    anything held out."""
    optim: Optim = Optim()
    parallel: Parallel = Parallel()
    compute: Compute = Compute()
    checkpoint: Checkpoint = Checkpoint()
    metrics: Metrics = Metrics()
    lora: Lora | None = None

    def __post_init__(self) -> None:
        if not self.run.strip():
            raise ValueError(f"run is {shown(self.run)}; name a folder for it, such as runs/first")

    def save(self, path: Path) -> None:
        write_whole(path, yaml.safe_dump(to_builtins(self), sort_keys=False))


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Reads `path` and applies `a.b=c` overrides (values are YAML).

    Raises InputError for an unknown name, a wrong type or a missing file.
    """
    return read_struct(path, TrainConfig, overrides)
