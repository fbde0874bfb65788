"""Models by configuration: `engine:DIR` is our engine in process, anything else an OpenAI-compatible endpoint.

`openai` takes a second to import, so it is imported where an endpoint is asked.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from curate.models.asking import Model
from curate.models.endpoint_config import EndpointConfig
from curate.models.local import LocalConfig, LocalModel, engine_config
from curate.models.store import Store
from engine.errors import InputError
from engine.struct_file import to_struct

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
        return LocalConfig(engine_config(model.removeprefix(ENGINE), rest, "name"), str(values.get("name", "")))
    try:
        return to_struct(dict(values), EndpointConfig)
    except InputError as error:
        raise InputError(f'model {model!r}: {error}; an engine in process is written "{ENGINE}DIR"') from None


def checkpoint_files(values: Mapping[str, Any]) -> list[Path]:
    """The checkpoint of a model that runs in this process, and its adapter's folder; [] for an endpoint, and for a hub
    id. Raises InputError where the folder is not there."""
    model, adapter = str(values.get("model", "")), values.get("adapter")
    if not model.startswith(ENGINE):
        return []
    given = model.removeprefix(ENGINE)
    path = Path(given).expanduser()
    if not path.exists() and not _HUB_ID.fullmatch(given):
        raise InputError(f"model is {model!r}: there is no such folder; correct the path, or give a hub id")
    return [each for each in (path, *([Path(adapter).expanduser()] if adapter else [])) if each.exists()]


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
