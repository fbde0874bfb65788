"""Routes that draw tokens, and those that steer what is drawn."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from engine.request import Prompt, SamplingParams
from engine.schedule.sequence import Prepared
from engine.serve import asked, bodies
from engine.serve.chat import Chat
from engine.serve.completions import Completions
from engine.serve.conversations import of_anthropic, of_chat
from engine.serve.errors import HttpError
from engine.serve.exchange import Exchange
from engine.serve.messages import Messages
from engine.serve.responses import Responses
from engine.serve.running import Running
from engine.serve.served import Served
from engine.serve.shapes import TextLogprobs

_MOST_LOGPROBS = 1 << 22
"""In one reply, alternatives included; with token and number each takes some 27 bytes of JSON."""


class Generation:
    """Handlers, each of one body and one exchange."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def chat(self, body: bodies.ChatBody, exchange: Exchange) -> None:
        """POST /v1/chat/completions"""
        service, model, params = self._served.service, self._served.model(body.model), self._sampling(body)
        prompt: Prompt = {"messages": of_chat(body.messages)}
        (prepared,) = await service.prepare([prompt], params)
        self._refuse_large([prepared], prepared.params.logprobs, prepared.params.n, False)
        make = partial(Chat, body, model, service.tokenizer, prepared)
        await self._served.reply(exchange, [prepared], "chatcmpl", bool(body.stream), make)

    async def completions(self, body: bodies.CompletionBody, exchange: Exchange) -> None:
        """POST /v1/completions"""
        service, model = self._served.service, self._served.model(body.model)
        prompts = asked.completion_prompts(body, self._served.options.max_prompts)
        silent = body.max_tokens == 0
        if silent and not body.echo:
            raise HttpError(400, "max_tokens is 0, which only echo can take; give 1 or more", "max_tokens")
        most = service.config.max_logprobs
        if body.logprobs is not None and body.logprobs > most:
            raise HttpError(400, f"logprobs is {body.logprobs}, and the server's max_logprobs {most}", "logprobs")
        if silent:
            body.max_tokens = 1
        params = self._sampling(body)
        most = min(self._served.options.max_prompts, service.config.max_waiting)
        if len(prompts) * params.n > most or params.n > service.config.max_samples:
            said = f"{most} samples in all and {service.config.max_samples} of one prompt"
            raise HttpError(400, f"n is {params.n} for {len(prompts)} prompts; a request may have {said}", "n")
        if silent:  # the prompts may fill the context
            prepared = [await service.beside(partial(service.preparer.followed, prompt, 0)) for prompt in prompts]
        else:
            prepared = await service.prepare(prompts, params)
        likely: list[dict[str, Any]] = []
        self._refuse_large(prepared, body.logprobs, params.n, body.echo)
        if body.echo and body.logprobs is not None:
            found = await service.prompt_logprobs([one.prompt.tolist() for one in prepared], body.logprobs)
            pairs = [*zip(prepared, found, strict=True)]
            likely = await service.beside(
                lambda: [TextLogprobs(service.tokenizer).of([(one.prompt[0], None), *of]) for one, of in pairs]
            )
        make = partial(Completions, body, model, service.tokenizer, prepared, likely)
        if silent:
            running = Running(f"cmpl-{exchange.identity}", exchange.owner, service.tokenizer, False)
            reply = make(running)
            await exchange.whole(200, await service.beside(lambda: msgspec.json.encode(reply.whole([]))))
        else:
            await self._served.reply(exchange, prepared, "cmpl", bool(body.stream), make)

    async def responses(self, body: bodies.ResponsesBody, exchange: Exchange) -> None:
        """POST /v1/responses"""
        service, model = self._served.service, self._served.model(body.model)
        thinks, efforts = service.preparer.format(body.thinking_format).thinks, self._served.options.efforts
        prompt, params = asked.responses(body, service.base, efforts, thinks)
        (prepared,) = await service.prepare([prompt], params)
        await self._served.reply(
            exchange, [prepared], "resp", bool(body.stream), partial(Responses, body, model, prepared)
        )

    async def messages(self, body: bodies.MessagesBody, exchange: Exchange) -> None:
        """POST /v1/messages"""
        service, model = self._served.service, self._served.model(body.model)
        thinks, efforts = service.preparer.format(None).thinks, self._served.options.efforts
        prompt, params = asked.anthropic(body, service.base, efforts, thinks)
        (prepared,) = await service.prepare([prompt], params)
        await self._served.reply(
            exchange, [prepared], "msg", bool(body.stream), partial(Messages, body, model, prepared)
        )

    async def count_tokens(self, body: bodies.CountBody, exchange: Exchange) -> None:
        """POST /v1/messages/count_tokens"""
        self._served.model(body.model)
        if body.tools or body.tool_choice:
            raise HttpError(400, "tools is given, which this engine cannot do; leave it out", "tools")
        prompt: Prompt = {"messages": of_anthropic(body)}
        params = SamplingParams(continue_final_message=body.messages[-1].get("role") == "assistant")
        (prepared,) = await self._served.service.prepare([prompt], params)
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

    def _sampling(self, body: bodies.Sampling) -> SamplingParams:
        service = self._served.service
        thinks = service.preparer.format(body.thinking_format).thinks
        return asked.sampling(body, service.base, self._served.options.efforts, thinks)

    def _refuse_large(self, prepared: Sequence[Prepared], top: int | None, n: int, echo: bool) -> None:
        """Raises HttpError where the reply could have more log-probabilities than one may."""
        if top is None:
            return
        context = self._served.service.context
        tokens = sum(min(one.plan.max_tokens, context - len(one.prompt)) + echo * len(one.prompt) for one in prepared)
        if tokens * n * (top + 1) > _MOST_LOGPROBS:
            raise HttpError(
                400,
                f"logprobs of {top + 1} tokens at up to {tokens * n:,} positions are more than the {_MOST_LOGPROBS:,} "
                "that a reply may have; lower n, max_tokens or logprobs, or send fewer prompts",
                "logprobs",
            )

    def _found(self, exchange: Exchange) -> Running:
        running = self._served.service.live.get(exchange.parameters["id"])
        if running is None or running.owner != exchange.owner:
            raise HttpError(404, "no request of yours runs under this id: it is over, or never was")
        return running
