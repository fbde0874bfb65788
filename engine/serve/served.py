"""What all routes share: the model by its names, whether it is there, and how a reply goes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from engine.errors import shown
from engine.request import RequestOutput
from engine.schedule.sequence import Prepared
from engine.serve.errors import RETRY_S, HttpError
from engine.serve.exchange import Exchange
from engine.serve.metrics import Metrics
from engine.serve.options import Options
from engine.serve.running import Running
from engine.serve.service import Service, State

_LARGE = 1 << 14
"""Of a reply: made on a thread, so that streams go on meanwhile."""


class Reply(Protocol):
    """The shape of an interface's replies."""

    def whole(self, outputs: Sequence[RequestOutput]) -> dict[str, Any]:
        """To a request that does not stream."""
        ...

    async def stream(self, exchange: Exchange) -> list[RequestOutput]:
        """Send what comes as it comes. Returns what has come of it."""
        ...


@dataclass(frozen=True)
class Served:
    """One model."""

    options: Options
    service: Service
    metrics: Metrics

    def model(self, name: str | None) -> str:
        """What the reply calls the model. Raises HttpError for one that is not here."""
        self.loaded()
        if name is not None and name not in self.options.names:
            raise HttpError(
                404,
                f"model {shown(name)} is not served here; this is {self.options.names[0]!r}",
                "model",
                "model_not_found",
            )
        return self.options.names[0] if name is None else name

    def loaded(self) -> Service:
        """The service. Raises HttpError while it takes no requests."""
        if self.service.state is not State.READY:
            raise HttpError(503, f"the server is {self.service.state.value}; try later", retry=RETRY_S)
        return self.service

    async def reply(
        self,
        exchange: Exchange,
        prepared: Sequence[Prepared],
        prefix: str,
        streams: bool,
        make: Callable[[Running], Reply],
    ) -> None:
        """Run the prompts, and send what comes of them as it comes, or whole."""
        async with self.service.run(prepared, prefix, exchange.owner, streams) as running:
            reply, named = make(running), [(b"x-s1-request", running.identity.encode())]  # for control at once
            if streams:
                await exchange.begin_events(named)
                outputs = await reply.stream(exchange)
            else:
                outputs = await running.outputs()

                def encoded() -> bytes:
                    return msgspec.json.encode(reply.whole(outputs))

                samples = [sample for output in outputs for sample in output.outputs]
                large = sum(len(sample.token_ids) * (1 + 20 * (sample.logprobs is not None)) for sample in samples)
                body = await self.service.beside(encoded) if large > _LARGE else encoded()
                await exchange.whole(200, body, more=named)
        self.metrics.count(outputs)
        exchange.notes |= {
            "request": running.identity,
            "finish": ",".join(sorted({sample.finish_reason for output in outputs for sample in output.outputs})),
            "prompt": sum(output.usage.prompt_tokens for output in outputs),
            "completion": sum(output.usage.completion_tokens for output in outputs),
            "reasoning": sum(output.usage.reasoning_tokens for output in outputs),
        }
