"""Sampling defaults of a checkpoint: what generation_config.json says, where the caller asked for it."""

from pathlib import Path
from typing import Any

from engine.errors import InputError, refuse, shown
from engine.json_file import read_object_if_any
from engine.model.checkpoint import text_folder
from engine.model.gguf_header import read_header
from engine.request import SamplingParams

_GGUF = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
"""What GGUF's general.sampling calls otherwise."""
_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def default_params(directory: Path, generation_config: str) -> SamplingParams:
    """SamplingParams' own defaults, or (`auto`) those of the checkpoint over them.

    As in transformers, `do_sample` without a temperature means 1, and no `do_sample` means 0. Raises
    InputError for a file that cannot be used.
    """
    folder = text_folder(directory)
    path = directory if folder is None else folder / "generation_config.json"
    if generation_config == "none":
        return SamplingParams()
    values = _inside(directory) if folder is None else read_object_if_any(path)
    if not values:
        return SamplingParams()
    try:
        sampled = values.get("do_sample", False)
        refuse((not isinstance(sampled, bool), f"do_sample is {shown(sampled)}; give true or false"))
        found = {name: values[name] for name in _FIELDS if values.get(name) is not None}
        found["temperature"] = found.get("temperature", 1.0) if sampled else 0.0
        return SamplingParams.from_dict(found)
    except InputError as error:
        raise InputError(f"{path} cannot be used for defaults: {error}") from error


def _inside(file: Path) -> dict[str, Any]:
    """What a GGUF file's general.sampling says, as generation_config.json would."""
    prefix = "general.sampling."
    said = {k.removeprefix(prefix): v for k, v in read_header(file).values.items() if k.startswith(prefix)}
    return {"do_sample": True, **{_GGUF.get(name, name): value for name, value in said.items()}} if said else {}
