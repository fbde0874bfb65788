"""Routes that tell: health, models, metrics, what is served and how."""

import time
from dataclasses import fields
from importlib import metadata
from typing import Any

from engine.request import SamplingParams
from engine.serve.errors import RETRY_S, HttpError
from engine.serve.exchange import Exchange
from engine.serve.served import Served


class Views:
    """Handlers, each of one exchange."""

    def __init__(self, served: Served) -> None:
        self._served, self._begun = served, int(time.time())

    async def health(self, exchange: Exchange) -> None:
        """GET /health: the server lives"""
        await exchange.json({"status": "ok", "state": self._served.service.state.value})

    async def ready(self, exchange: Exchange) -> None:
        """GET /health/ready: it takes requests, and an engine is there for them"""
        if not self._served.loaded().ready:
            raise HttpError(503, "no engine runs: it is being started again; try later", retry=RETRY_S)
        await exchange.json({"status": "ready"})

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models"""
        options = self._served.options
        names = options.names[: max(1, len(options.served_model_name))]
        await exchange.json({"object": "list", "data": [self._model(name) for name in names]})

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{name}"""
        await exchange.json(self._model(self._served.model(exchange.parameters["name"])))

    def _model(self, name: str) -> dict[str, Any]:
        """As both clients know one."""
        begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._begun))
        return {
            "id": name,
            "object": "model",
            "created": self._begun,
            "owned_by": "s1-engine",
            "type": "model",
            "display_name": name,
            "created_at": begun,
            "root": self._served.options.names[0],
            "max_model_len": self._served.loaded().context,
        }

    async def metrics(self, exchange: Exchange) -> None:
        """GET /metrics"""
        await exchange.whole(
            200, self._served.metrics.page(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        )

    async def server_info(self, exchange: Exchange) -> None:
        """GET /server_info"""
        service, options = self._served.loaded(), self._served.options
        form = service.preparer.format(None)
        decode = service.tokenizer.decode
        marks = {name: decode(getattr(form, name)) for name in ("opener", "end", "budget_end")} if form.thinks else None
        defaults = {f.name: getattr(service.base, f.name) for f in fields(SamplingParams)}
        await exchange.json(
            {
                "model": options.names[0],
                "version": metadata.version("s1-engine"),
                "max_model_len": service.context,
                "thinking_format": service.config.thinking_format,
                "thinking": marks,
                "default_params": {k: v for k, v in defaults.items() if v is not None},
                "reasoning_effort_budgets": options.efforts,
                "scores": service.scores,
                "engine": service.config.decisive,
                "lines": service.lines,
                "replicas": [None if one is None else one.stats for one in service.replicas.all],
                "restarts": service.replicas.restarts,
                "ui": options.ui,
            }
        )

    async def tokenizer_info(self, exchange: Exchange) -> None:
        """GET /tokenizer_info: what a harness needs to count and to render for itself"""
        tokenizer = self._served.loaded().tokenizer
        ends = {"eos_token": tokenizer.decode(tokenizer.eos_token_ids[:1])} if tokenizer.eos_token_ids else {}
        template = {"chat_template": tokenizer.template_source}
        await exchange.json({**ends, **tokenizer.variables, **template, "vocab_size": tokenizer.size})
