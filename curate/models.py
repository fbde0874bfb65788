"""Models by configuration: `engine:DIR` is our engine in process, anything else an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from curate.asking import Model
from curate.endpoint import EndpointConfig, EndpointModel
from curate.local import LocalConfig, LocalModel, engine_config
from curate.store import Store

ENGINE = "engine:"


def check_model_config(values: Mapping[str, Any]) -> EndpointConfig | LocalConfig:
    """The configuration of a model, from what a YAML file holds.

    Args:
        values: `model: "engine:DIR_OR_HUB_ID"` with fields of EngineConfig and `name`; or the fields of EndpointConfig.

    Raises:
        ValueError: an unknown field, a wrong type, or a required field that is missing; the message names it.
    """
    model = values.get("model")
    if not isinstance(model, str) or model in ("", ENGINE):
        raise ValueError(f"model is {model!r}; give \"{ENGINE}DIR\", or the name of a model beside a base_url")
    if model.startswith(ENGINE):
        rest = {key: value for key, value in values.items() if key != "name"}
        return LocalConfig(engine_config({**rest, "model": model.removeprefix(ENGINE)}), str(values.get("name", "")))
    try:
        return msgspec.convert(dict(values), EndpointConfig)
    except msgspec.ValidationError as error:
        raise ValueError(f"model {model!r}: {error}; an engine in process is written \"{ENGINE}DIR\"") from None


@contextmanager
def open_model(values: Mapping[str, Any], store: Store) -> Iterator[Model]:
    """A model to ask, whose answers go into `store`. Raises ValueError (InputError is one) for what cannot be used."""
    config = check_model_config(values)
    if isinstance(config, EndpointConfig):
        yield EndpointModel(config, store)
        return
    local = LocalModel(config, store)
    try:
        yield local
    finally:
        local.close()
