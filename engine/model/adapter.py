"""A low-rank adapter (LoRA, arXiv 2106.09685) in PEFT's format, added to the weights while they are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import InputError, first_line, is_number, is_whole, refuse, shown
from engine.json_file import read_object
from engine.model.checkpoint import safetensors_header
from engine.model.fingerprint import ADAPTER_FILES

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_MAX_RANK = 4096
_LEFT_OUT: Mapping[str, Any] = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
    "layer_replication": None,
}
"""What PEFT can do besides, and the value with which it does not."""
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""Of `init_lora_weights`: those that leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take a part out of
it, which a sum with the published base would hold twice."""


@dataclass(frozen=True)
class Adapter:
    """scale * B A for every matrix in `pairs`, by the matrix's name: A [r, K] and B [M, r] float32."""

    directory: Path
    scale: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def load(cls, directory: str | Path) -> "Adapter":
        """Reads adapter_config.json and adapter_model.safetensors. Raises InputError naming file and field."""
        directory = Path(directory)
        config, file = (directory / name for name in ADAPTER_FILES)
        for needed in (config, file):
            if not needed.exists():
                raise InputError(f"{needed} is missing; give the folder of a LoRA adapter in PEFT's format")
        rank, scale = _scale(read_object(config), str(config))
        safetensors_header(file)
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read ({first_line(error)}); copy it again") from None
        pairs = {}
        for name in sorted(tensors):
            if not (name.startswith(_PREFIX) and name.endswith((_A, _B))):
                raise InputError(f"{file}: {name} is no part of a LoRA of linear layers; merge this adapter with PEFT")
            matrix = name.removeprefix(_PREFIX).removesuffix(_A).removesuffix(_B)
            a, b = (tensors.get(f"{_PREFIX}{matrix}{end}") for end in (_A, _B))
            if a is None or b is None:
                raise InputError(f"{file}: {matrix} has one of lora_A and lora_B alone; copy it again")
            if a.dim() != 2 or b.dim() != 2 or (a.shape[0], b.shape[1]) != (rank, rank):
                raise InputError(
                    f"{file}: {matrix} has lora_A {list(a.shape)} and lora_B {list(b.shape)}, and adapter_config.json "
                    f"says r is {rank}; give the one that belongs to it"
                )
            pairs[f"{matrix}.weight"] = a.float(), b.float()
        if not pairs:
            raise InputError(f"{file} holds no tensor; copy it again")
        return cls(directory, scale, pairs)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises InputError unless every matrix is one of the model's, whose tensors have these `shapes`."""
        for name, (a, b) in self.pairs.items():
            shape = shapes.get(name)
            refuse(
                (
                    shape is None or len(shape) != 2,
                    f"{self.directory}: the adapter changes {name}, which the model has not; give the base model that "
                    "adapter_config.json names",
                ),
                (
                    shape is not None and shape != (b.shape[0], a.shape[1]),
                    f"{self.directory}: the adapter's {name} is {b.shape[0]} x {a.shape[1]}, and the model's "
                    f"{' x '.join(map(str, shape or ()))}; give the base model that adapter_config.json names",
                ),
            )

    def added(self, name: str, tensor: Tensor, dim: int = 0, start: int = 0) -> Tensor:
        """`tensor`, entries from `start` on of dimension `dim` of the matrix `name`, with its part of the product: in
        float32. As it is where nothing is added."""
        pair = self.pairs.get(name)
        if pair is None:
            return tensor
        part = slice(start, start + tensor.shape[dim])
        a, b = (pair[0][:, part], pair[1]) if dim else (pair[0], pair[1][part])
        return tensor.float() + self.scale * (b @ a)


def _scale(settings: Mapping[str, Any], source: str) -> tuple[int, float]:
    """(rank, factor of the product)."""
    kind, rank, alpha = settings.get("peft_type"), settings.get("r"), settings.get("lora_alpha")
    bias, rooted = settings.get("bias", "none"), settings.get("use_rslora") or False
    start = settings.get("init_lora_weights")
    others = [name for name, off in _LEFT_OUT.items() if (settings.get(name) or off) != off]
    refuse(
        (kind != "LORA", f"{source}: peft_type is {shown(kind)}; LORA is what is read, merge others with PEFT"),
        (not is_whole(rank, 1, _MAX_RANK), f"{source}: r is {shown(rank)}; give a whole number from 1 to {_MAX_RANK}"),
        (not is_number(alpha, 0, 1e6), f"{source}: lora_alpha is {shown(alpha)}; give a number from 0 to 1e6"),
        (bias != "none", f"{source}: bias is {shown(bias)}; adapters with biases are to be merged with PEFT"),
        (
            start not in _STARTS,
            f"{source}: init_lora_weights is {shown(start)}, which changes the base as well; merge this adapter with "
            "PEFT",
        ),
        *((True, f"{source}: {name} is set, which is not supported; merge this adapter with PEFT") for name in others),
    )
    assert rank is not None and alpha is not None
    return rank, float(alpha) / (rank**0.5 if rooted else rank)


def read_adapter(directory: str | None) -> Adapter | None:
    """The adapter in `directory`, where one is given."""
    return None if directory is None else Adapter.load(Path(directory).expanduser())


def merged(adapter: Adapter | None, name: str, tensor: Tensor, dim: int = 0, start: int = 0) -> Tensor:
    """`Adapter.added`, where there is one."""
    return tensor if adapter is None else adapter.added(name, tensor, dim, start)
