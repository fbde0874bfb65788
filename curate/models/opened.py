"""Models by configuration: `engine:DIR` is our engine in process, anything else an OpenAI-compatible endpoint.

Either takes a second to import (torch, openai), so it is imported where a configuration names one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from curate.models.asking import Model
from curate.models.store import Store

if TYPE_CHECKING:
    from curate.models.endpoint import EndpointConfig
    from curate.models.local import LocalConfig

ENGINE = "engine:"


def check_model_config(values: Mapping[str, Any]) -> EndpointConfig | LocalConfig:
    """The configuration of a model, from what a YAML file holds.

    Args:
        values: `model: "engine:DIR_OR_HUB_ID"` with fields of EngineConfig and `name`; or the fields of EndpointConfig.

    Raises:
        ValueError: an unknown field, a wrong type, or a required field that is missing; the message names it.
    """
    return _local_config(values) if _is_local(values) else _endpoint_config(values)


@contextmanager
def open_model(values: Mapping[str, Any], store: Store) -> Iterator[Model]:
    """A model to ask, whose answers go into `store`. Raises ValueError (InputError is one) for what cannot be used."""
    if not _is_local(values):
        from curate.models.endpoint import EndpointModel

        yield EndpointModel(_endpoint_config(values), store)
        return
    from curate.models.local import LocalModel

    local = LocalModel(_local_config(values), store)
    try:
        yield local
    finally:
        local.close()


def _is_local(values: Mapping[str, Any]) -> bool:
    model = values.get("model")
    if not isinstance(model, str) or model in ("", ENGINE):
        raise ValueError(f'model is {model!r}; give "{ENGINE}DIR", or the name of a model beside a base_url')
    return model.startswith(ENGINE)


def _local_config(values: Mapping[str, Any]) -> LocalConfig:
    from curate.models.local import LocalConfig, engine_config

    rest = {key: value for key, value in values.items() if key != "name"}
    engine = engine_config({**rest, "model": values["model"].removeprefix(ENGINE)})
    return LocalConfig(engine, str(values.get("name", "")))


def _endpoint_config(values: Mapping[str, Any]) -> EndpointConfig:
    from curate.models.endpoint import EndpointConfig

    try:
        return msgspec.convert(dict(values), EndpointConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f'model {values["model"]!r}: {error}; an engine in process is written "{ENGINE}DIR"') from None
