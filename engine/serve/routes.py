"""Every route, what it does, and the schema that says so."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from functools import partial
from importlib import metadata
from typing import Any

from starlette.routing import Route, Router

from engine.request import Logprob, Prompt, SamplingParams
from engine.schedule.sequence import Prepared
from engine.serve import asked, bodies
from engine.serve.chat import Chat
from engine.serve.completions import Completions
from engine.serve.conversations import of_anthropic, of_chat
from engine.serve.door import Posted
from engine.serve.errors import HttpError
from engine.serve.exchange import Exchange
from engine.serve.messages import Messages
from engine.serve.metrics import Metrics
from engine.serve.options import Options
from engine.serve.playground import Playground
from engine.serve.responses import Responses
from engine.serve.running import Running
from engine.serve.schema import openapi
from engine.serve.service import Service, State


class Routes:
    """Handlers, each of one body and one exchange."""

    def __init__(self, options: Options, service: Service, metrics: Metrics) -> None:
        self._options, self._service, self._metrics = options, service, metrics
        self._begun = int(time.time())

    def router(self) -> Router:
        """All of them."""
        page = Playground() if self._options.ui else None
        options, gets = (
            self._options,
            {
                "/health": self.health,
                "/health/ready": self.ready,
                "/v1/models": self.models,
                "/metrics": self.metrics,
                "/server_info": self.server_info,
                "/tokenizer_info": self.tokenizer_info,
                "/openapi.json": self.schema,
                **({"/": page.index, "/static/{name}": page.file} if page is not None else {}),
            },
        )
        posts = {
            path: Posted(body, handle, options.max_body_bytes, options.read_timeout, options.stall_timeout)
            for path, (body, handle) in self._posts().items()
        }
        return Router(
            [
                *(Route(path, _Got(handle), methods=["GET"]) for path, handle in gets.items()),
                *(Route(path, handle, methods=["POST"]) for path, handle in posts.items()),
                Route("/v1/requests/{id}", _Got(self.abort), methods=["DELETE"]),
            ],
            redirect_slashes=False,
        )

    def _posts(self) -> dict[str, tuple[Any, Callable[[Any, Exchange], Coroutine[Any, Any, None]]]]:
        return {
            "/v1/chat/completions": (bodies.ChatBody, self.chat),
            "/v1/completions": (bodies.CompletionBody, self.completions),
            "/v1/responses": (bodies.ResponsesBody, self.responses),
            "/v1/messages": (bodies.MessagesBody, self.messages),
            "/v1/messages/count_tokens": (bodies.CountBody, self.count_tokens),
            "/v1/requests/{id}/control": (bodies.ControlBody, self.control),
            "/v1/score": (bodies.ScoreBody, self.score),
            "/pooling": (bodies.PoolingBody, self.pooling),
            "/tokenize": (bodies.TokenizeBody, self.tokenize),
            "/detokenize": (bodies.DetokenizeBody, self.detokenize),
            "/apply-template": (bodies.TemplateBody, self.apply_template),
        }

    async def chat(self, body: bodies.ChatBody, exchange: Exchange) -> None:
        """POST /v1/chat/completions"""
        service, model, params = self._service, self._model(body.model), self._sampling(body)
        prompt: Prompt = {"messages": of_chat(body.messages)}
        (prepared,) = await service.prepare([prompt], params)
        make = partial(Chat, body, model, service.tokenizer, prepared)
        await self._reply(exchange, [prepared], "chatcmpl", bool(body.stream), make)

    async def completions(self, body: bodies.CompletionBody, exchange: Exchange) -> None:
        """POST /v1/completions"""
        service, model = self._service, self._model(body.model)
        prompts = asked.completion_prompts(body, self._options.max_prompts)
        silent = body.max_tokens == 0
        if silent and (not body.echo or body.stream):
            said = "max_tokens is 0, which takes echo and no stream; give 1 or more"
            raise HttpError(400, said, "max_tokens")
        if silent:
            body.max_tokens = 1
        params = self._sampling(body)
        if len(prompts) * params.n > self._options.max_prompts:
            most = self._options.max_prompts
            raise HttpError(400, f"n is {params.n} for {len(prompts)} prompts, more than {most} samples in all", "n")
        if silent:  # the prompts may fill the context
            prepared = [await service.beside(partial(service.preparer.followed, prompt, 0)) for prompt in prompts]
        else:
            prepared = await service.prepare(prompts, params)
        likely: Sequence[Sequence[Logprob]] = []
        if body.echo and body.logprobs is not None:
            ids = (one.prompt.tolist() for one in prepared)
            likely = await asyncio.gather(*(service.prompt_logprobs(one, body.logprobs) for one in ids))
        make = partial(Completions, body, model, service.tokenizer, prepared, likely)
        if silent:
            running = Running(f"cmpl-{exchange.identity}", exchange.owner, service.tokenizer, False)
            await exchange.json(make(running).whole([]))
        else:
            await self._reply(exchange, prepared, "cmpl", bool(body.stream), make)

    async def responses(self, body: bodies.ResponsesBody, exchange: Exchange) -> None:
        """POST /v1/responses"""
        service, model = self._service, self._model(body.model)
        thinks, efforts = service.preparer.format(body.thinking_format).thinks, self._options.reasoning_effort_budgets
        prompt, params = asked.responses(body, service.base, efforts, thinks)
        (prepared,) = await service.prepare([prompt], params)
        await self._reply(exchange, [prepared], "resp", bool(body.stream), partial(Responses, body, model, prepared))

    async def messages(self, body: bodies.MessagesBody, exchange: Exchange) -> None:
        """POST /v1/messages"""
        service, model = self._service, self._model(body.model)
        thinks, efforts = service.preparer.format(None).thinks, self._options.reasoning_effort_budgets
        prompt, params = asked.anthropic(body, service.base, efforts, thinks)
        (prepared,) = await service.prepare([prompt], params)
        await self._reply(exchange, [prepared], "msg", body.stream, partial(Messages, body, model, prepared))

    async def count_tokens(self, body: bodies.CountBody, exchange: Exchange) -> None:
        """POST /v1/messages/count_tokens"""
        self._model(body.model)
        if body.tools or body.tool_choice:
            raise HttpError(400, "tools is given, which this engine cannot do; leave it out", "tools")
        prompt: Prompt = {"messages": of_anthropic(body)}
        params = SamplingParams(continue_final_message=body.messages[-1].get("role") == "assistant")
        (prepared,) = await self._service.prepare([prompt], params)
        await exchange.json({"input_tokens": len(prepared.prompt)})

    async def control(self, body: bodies.ControlBody, exchange: Exchange) -> None:
        """POST /v1/requests/{id}/control"""
        running = self._found(exchange)
        for ticket in running.tickets:
            match body:
                case bodies.EndThinking():
                    ticket.end_thinking()
                case bodies.Extend():
                    ticket.extend()
                case bodies.Budget():
                    ticket.set_budget(body.budget)
        action = type(body).__struct_config__.tag
        await exchange.json({"id": running.identity, "action": action, "ok": True})

    async def abort(self, exchange: Exchange) -> None:
        """DELETE /v1/requests/{id}"""
        running = self._found(exchange)
        running.abort()
        await exchange.json({"id": running.identity, "aborted": True})

    async def score(self, body: bodies.ScoreBody, exchange: Exchange) -> None:
        """POST /v1/score"""
        model = self._model(body.model)
        prompt = self._prompt(body.prompt, body.messages)
        scores = await self._service.score(prompt, body.steps, body.mark, body.labels)
        await exchange.json(
            {
                "object": "list",
                "model": model,
                "scores": [*scores.values],
                "usage": {"prompt_tokens": scores.computed + scores.reused, "computed_tokens": scores.computed},
            }
        )

    async def pooling(self, body: bodies.PoolingBody, exchange: Exchange) -> None:
        """POST /pooling"""
        service, model = self._service, self._model(body.model)
        if not service.scores:
            raise HttpError(400, "the model is no reward model; use /v1/score with labels", "model")
        if (body.input is None) == (body.messages is None):
            raise HttpError(400, "give exactly one of input and messages", "input")
        texts = [] if body.input is None else asked.listed(body.input, "input", self._options.max_prompts)
        prompts: list[Prompt] = [{"text": one} if isinstance(one, str) else one for one in texts]
        data, tokens = [], 0
        for index, prompt in enumerate(prompts or [{"messages": body.messages}]):
            prepared = await service.beside(partial(service.preparer.followed, prompt, 0))
            ids = prepared.prompt.tolist()
            scores = await service.score(ids[:-1], [ids[-1:]])
            data.append({"index": index, "object": "pooling", "data": [*scores.values]})
            tokens += len(ids)
        counts = {"prompt_tokens": tokens, "total_tokens": tokens}
        await exchange.json({"object": "list", "model": model, "data": data, "usage": counts})

    async def tokenize(self, body: bodies.TokenizeBody, exchange: Exchange) -> None:
        """POST /tokenize"""
        self._model(body.model)
        tokenizer = self._loaded().tokenizer
        if (body.prompt is None) == (body.messages is None):
            raise HttpError(400, "give exactly one of prompt and messages", "prompt")
        if body.messages is not None:
            work = partial(tokenizer.render, body.messages, body.add_generation_prompt)
        else:
            work = partial(tokenizer.encode, body.prompt or "", specials=True)
        ids = await self._service.beside(work)
        reply = {"count": len(ids), "max_model_len": self._service.context, "tokens": ids}
        if body.return_token_strs:
            reply["token_strs"] = [tokenizer.decode([token]) for token in ids]
        await exchange.json(reply)

    async def detokenize(self, body: bodies.DetokenizeBody, exchange: Exchange) -> None:
        """POST /detokenize"""
        self._model(body.model)
        text = await self._service.beside(partial(self._loaded().tokenizer.decode, body.tokens))
        await exchange.json({"prompt": text})

    async def apply_template(self, body: bodies.TemplateBody, exchange: Exchange) -> None:
        """POST /apply-template: with the opener of thinking, as the model gets it"""
        self._model(body.model)
        params = SamplingParams(continue_final_message=body.continue_final_message)
        (prepared,) = await self._service.prepare([{"messages": of_chat(body.messages)}], params)
        ids = prepared.prompt.tolist()
        await exchange.json({"prompt": self._service.tokenizer.decode(ids), "tokens": ids})

    async def health(self, exchange: Exchange) -> None:
        """GET /health: the server lives"""
        await exchange.json({"status": "ok", "state": self._service.state.value})

    async def ready(self, exchange: Exchange) -> None:
        """GET /health/ready: it takes requests"""
        self._loaded()
        await exchange.json({"status": "ready"})

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models"""
        service = self._loaded()
        data = [
            {
                "id": name,
                "object": "model",
                "created": self._begun,
                "owned_by": "s1-engine",
                "root": self._options.names[0],
                "max_model_len": service.context,
            }
            for name in self._options.names[: max(1, len(self._options.served_model_name))]
        ]
        await exchange.json({"object": "list", "data": data})

    async def metrics(self, exchange: Exchange) -> None:
        """GET /metrics"""
        await exchange.whole(
            200, self._metrics.page(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        )

    async def server_info(self, exchange: Exchange) -> None:
        """GET /server_info"""
        service, options = self._loaded(), self._options
        form = service.preparer.format(None)
        decode = service.tokenizer.decode
        marks = {name: decode(getattr(form, name)) for name in ("opener", "end", "budget_end")} if form.thinks else None
        defaults = {f.name: getattr(service.base, f.name) for f in fields(SamplingParams)}
        await exchange.json(
            {
                "model": options.names[0],
                "version": metadata.version("s1-engine"),
                "max_model_len": service.context,
                "thinking": marks,
                "default_params": {k: v for k, v in defaults.items() if v is not None},
                "reasoning_effort_budgets": options.reasoning_effort_budgets,
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
        tokenizer = self._loaded().tokenizer
        ends = {"eos_token": tokenizer.decode(tokenizer.eos_token_ids[:1])} if tokenizer.eos_token_ids else {}
        template = {"chat_template": tokenizer.template_source}
        await exchange.json({**ends, **tokenizer.variables, **template, "vocab_size": tokenizer.size})

    async def schema(self, exchange: Exchange) -> None:
        """GET /openapi.json"""
        await exchange.json(openapi({path: body for path, (body, _) in self._posts().items()}))

    def _sampling(self, body: bodies.Sampling) -> SamplingParams:
        service = self._service
        thinks = service.preparer.format(body.thinking_format).thinks
        return asked.sampling(body, service.base, self._options.reasoning_effort_budgets, thinks)

    def _model(self, name: str | None) -> str:
        """What the reply calls the model. Raises HttpError for one that is not here."""
        self._loaded()
        if name is not None and name not in self._options.names:
            raise HttpError(
                404,
                f"model {name!r} is not served here; this is {self._options.names[0]!r}",
                "model",
                "model_not_found",
            )
        return self._options.names[0] if name is None else name

    def _loaded(self) -> Service:
        if self._service.state is not State.READY:
            raise HttpError(503, f"the server is {self._service.state.value}; try later", retry=1)
        return self._service

    def _found(self, exchange: Exchange) -> Running:
        running = self._service.live.get(exchange.parameters["id"])
        if running is None or running.owner != exchange.owner:
            raise HttpError(404, "no request of yours runs under this id: it is over, or never was")
        return running

    def _prompt(self, prompt: str | list[int] | None, messages: list[dict[str, Any]] | None) -> Prompt:
        if (prompt is None) == (messages is None):
            raise HttpError(400, "give exactly one of prompt and messages", "prompt")
        if messages is not None:
            return {"messages": messages}
        return {"text": prompt} if isinstance(prompt, str) else prompt or []

    async def _reply(
        self,
        exchange: Exchange,
        prepared: Sequence[Prepared],
        prefix: str,
        streams: bool,
        make: Callable[[Running], Chat | Completions | Messages | Responses],
    ) -> None:
        """Run the prompts, and send what comes of them as it comes, or whole."""
        async with self._service.run(prepared, prefix, exchange.owner, streams) as running:
            reply, named = make(running), [(b"x-s1-request", running.identity.encode())]  # for control at once
            if streams:
                await exchange.begin_events(named)
                outputs = await reply.stream(exchange)
            else:
                outputs = await running.outputs()
                await exchange.json(reply.whole(outputs), more=named)
        self._metrics.count(outputs)
        exchange.notes |= {
            "prompt": sum(output.usage.prompt_tokens for output in outputs),
            "completion": sum(output.usage.completion_tokens for output in outputs),
            "reasoning": sum(output.usage.reasoning_tokens for output in outputs),
        }


class _Got:
    """A route without a body."""

    def __init__(self, handle: Callable[[Exchange], Coroutine[Any, Any, None]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.parameters = scope.get("path_params", {})
        await self._handle(exchange)
