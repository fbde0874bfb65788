"""The table of routes."""

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.routing import Route, Router

from engine.serve import bodies
from engine.serve.door import Posted
from engine.serve.exchange import Exchange
from engine.serve.generation import Generation
from engine.serve.playground import Playground
from engine.serve.schema import openapi
from engine.serve.served import Served
from engine.serve.texts import Texts
from engine.serve.views import Views

_REQUEST = "/v1/requests/{id}"
Posts = dict[str, tuple[Any, Callable[[Any, Exchange], Coroutine[Any, Any, None]]]]


def router(served: Served) -> Router:
    """All of them, and the page that lists their schemas."""
    options, views, generation, texts = served.options, Views(served), Generation(served), Texts(served)
    posts: Posts = {
        "/v1/chat/completions": (bodies.ChatBody, generation.chat),
        "/v1/completions": (bodies.CompletionBody, generation.completions),
        "/v1/responses": (bodies.ResponsesBody, generation.responses),
        "/v1/messages": (bodies.MessagesBody, generation.messages),
        "/v1/messages/count_tokens": (bodies.CountBody, generation.count_tokens),
        f"{_REQUEST}/control": (bodies.ControlBody, generation.control),
        "/v1/score": (bodies.ScoreBody, texts.score),
        "/pooling": (bodies.PoolingBody, texts.pooling),
        "/tokenize": (bodies.TokenizeBody, texts.tokenize),
        "/detokenize": (bodies.DetokenizeBody, texts.detokenize),
        "/apply-template": (bodies.TemplateBody, texts.apply_template),
    }
    gets = {
        "/health": views.health,
        "/health/ready": views.ready,
        "/v1/models": views.models,
        "/v1/models/{name:path}": views.model,
        "/metrics": views.metrics,
        "/server_info": views.server_info,
        "/tokenizer_info": views.tokenizer_info,
    }
    schema = openapi({path: body for path, (body, _) in posts.items()}, [*gets, "/openapi.json"], [_REQUEST])

    async def show_schema(exchange: Exchange) -> None:
        await exchange.json(schema)

    page = Playground() if options.ui else None
    shown = {} if page is None else {"/": page.index, "/static/{name}": page.file}
    limits = options.max_body_bytes, options.read_timeout, options.stall_timeout
    return Router(
        [
            *(
                Route(path, _Got(handle), methods=["GET"])
                for path, handle in (gets | shown | {"/openapi.json": show_schema}).items()
            ),
            *(Route(path, Posted(body, handle, *limits), methods=["POST"]) for path, (body, handle) in posts.items()),
            Route(_REQUEST, _Got(generation.abort), methods=["DELETE"]),
        ],
        redirect_slashes=False,
    )


class _Got:
    """A route without a body."""

    def __init__(self, handle: Callable[[Exchange], Coroutine[Any, Any, None]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.parameters = scope.get("path_params", {})
        await self._handle(exchange)
