"""Models by configuration: `engine:DIR` is our engine in process, anything else an OpenAI-compatible endpoint.

`openai` takes a second to import, so it is imported where a configuration names an endpoint.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from curate.models.asking import Model
from curate.models.local import LocalConfig, LocalModel, engine_config
from curate.models.store import Store
from engine.errors import InputError
from engine.struct_file import to_struct

if TYPE_CHECKING:
    from curate.models.client import EndpointConfig

ENGINE = "engine:"


def check_model_config(values: Mapping[str, Any]) -> "EndpointConfig | LocalConfig":
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
    from curate.models.client import EndpointConfig

    try:
        return to_struct(dict(values), EndpointConfig)
    except InputError as error:
        raise InputError(f'model {model!r}: {error}; an engine in process is written "{ENGINE}DIR"') from None


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
