"""Sampling defaults of a checkpoint: what generation_config.json says, where the caller asked for it."""

from pathlib import Path

from engine.errors import InputError
from engine.json_file import read_object
from engine.request import SamplingParams

_FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def default_params(directory: Path, generation_config: str) -> SamplingParams:
    """SamplingParams' own defaults, or (`auto`) those of the checkpoint over them.

    As in transformers, `do_sample` without a temperature means 1, and no `do_sample` means 0. Raises
    InputError for a file that cannot be used.
    """
    path = directory / "generation_config.json"
    if generation_config == "none" or not path.is_file():
        return SamplingParams()
    values = read_object(path)
    try:
        found = {name: values[name] for name in _FIELDS if values.get(name) is not None}
        found["temperature"] = found.get("temperature", 1.0) if values.get("do_sample", False) else 0.0
        return SamplingParams.from_dict(found)
    except InputError as error:
        raise InputError(f"{path} cannot be used for defaults: {error}") from error
