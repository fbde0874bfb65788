"""Models by configuration: `engine:DIR` is our engine in process, anything else an OpenAI-compatible endpoint.

`openai` takes a second to import, so it is imported where an endpoint is asked.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from curate.models.asking import Model, Sampling
from curate.models.endpoint_config import EndpointConfig, api_key
from curate.models.local import LocalConfig, LocalModel, engine_config, engine_params
from curate.models.store import Store
from engine.errors import InputError, shown
from engine.model.checkpoint import resolve
from engine.model.embedded import NAMES
from engine.struct_file import to_struct
from engine.thinking.plan import Encoder, format_strings

ENGINE = "engine:"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(?<!\.gguf)")


def check_model_config(values: Mapping[str, Any]) -> EndpointConfig | LocalConfig:
    """The configuration of a model, from what a YAML file holds.

    Args:
        values: `model: "engine:DIR_OR_HUB_ID"` with fields of EngineConfig and `name`; or the fields of EndpointConfig.

    Raises:
        InputError: an unknown field, a wrong type, or a required field that is missing; the message names it.
    """
    model = values.get("model")
    if not isinstance(model, str) or model in ("", ENGINE):
        raise InputError(f'model is {model!r}; give "{ENGINE}DIR", or the name of a model beside a base_url')
    if model.startswith(ENGINE):
        rest = {key: value for key, value in values.items() if key not in ("model", "name")}
        engine = engine_config(model.removeprefix(ENGINE), rest, "name")
        check_format(engine.thinking_format)
        return LocalConfig(engine, str(values.get("name") or ""))
    try:
        return to_struct(dict(values), EndpointConfig)
    except InputError as error:
        raise InputError(f'model {model!r}: {error}; an engine in process is written "{ENGINE}DIR"') from None


def check_format(spec: str | Mapping[str, Any] | None) -> None:
    """Raises InputError where `thinking_format` is none that the engine knows."""
    if spec is not None and spec != "auto":
        format_strings(spec, cast(Encoder, None))  # it is asked for `auto` only


def check_sampling(values: Mapping[str, Any], sampling: Sampling) -> None:
    """Raises InputError where an engine in this process would refuse each call; an endpoint's own may be others."""
    if str(values.get("model")).startswith(ENGINE):
        engine_params(sampling, "0")
        check_format(sampling.thinking_format)


def check_ready(values: Mapping[str, Any]) -> None:
    """Raises InputError where a model cannot be asked from here: its key is not set, its checkpoint not there."""
    config = check_model_config(values)
    if isinstance(config, LocalConfig):
        checkpoint_files(values)
    else:
        api_key(config)


def deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that responses depend on: not how many calls run at once, for one."""
    config = check_model_config(values)
    if isinstance(config, LocalConfig):
        kept = {"model", "name", *config.engine.decisive}
    else:
        kept = {"model", "name", "base_url"}
    return {name: value for name, value in values.items() if name in kept}


def name_of(values: Mapping[str, Any]) -> str:
    """What tables call a model. Raises InputError where a checkpoint that gives its name is not there."""
    config = check_model_config(values)
    if isinstance(config, LocalConfig):
        return config.name or resolve(config.engine.model).name
    return config.name or config.model


def checkpoint_files(values: Mapping[str, Any]) -> list[Path]:
    """The checkpoint of a model that runs in this process, and its adapter's folder; [] for an endpoint, and for a hub
    id. Raises InputError where the folder is not there."""
    model, adapter = str(values.get("model", "")), values.get("adapter")
    if not model.startswith(ENGINE):
        return []
    given = model.removeprefix(ENGINE)
    path = Path(given).expanduser()
    if not path.exists() and not _is_hub_id(given):
        raise InputError(f"model is {model!r}: there is no such folder; correct the path, or give a hub id")
    if adapter and not Path(adapter).expanduser().is_dir():
        raise InputError(f"adapter of model {model!r} is {shown(adapter)}: there is no such folder; correct the path")
    return [each for each in (path, *([Path(adapter).expanduser()] if adapter else [])) if each.exists()]


def _is_hub_id(given: str) -> bool:
    """Whether it may be one, or s1-nano's name: it has the form, and is no path into a folder that is here, unless the
    hub's cache has it."""
    if given in NAMES or not _HUB_ID.fullmatch(given) or not Path(given).parent.is_dir():
        return given in NAMES or _HUB_ID.fullmatch(given) is not None
    from huggingface_hub import try_to_load_from_cache  # slow, and rarely needed

    return isinstance(try_to_load_from_cache(given, "config.json"), str)


def calls_at_once(values: Mapping[str, Any]) -> int:
    """How many calls a model answers at a time. Raises InputError as `check_model_config`."""
    config = check_model_config(values)
    return config.engine.max_num_seqs if isinstance(config, LocalConfig) else config.concurrency


@contextmanager
def open_model(values: Mapping[str, Any], store: Store) -> Iterator[Model]:
    """A model to ask, whose answers go into `store`. Raises InputError for what cannot be used."""
    config = check_model_config(values)
    if isinstance(config, LocalConfig):
        with closing(LocalModel(config, store)) as local:
            yield local
    else:
        from curate.models.endpoint import EndpointModel

        yield EndpointModel(config, store)
