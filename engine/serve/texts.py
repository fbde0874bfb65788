"""Routes that draw nothing: scores of texts, and texts as tokens."""

from functools import partial
from typing import Any

from engine.errors import InputError
from engine.request import Prompt, SamplingParams
from engine.serve import asked, bodies
from engine.serve.conversations import of_chat
from engine.serve.errors import HttpError
from engine.serve.exchange import Exchange
from engine.serve.served import Served

_TIMES = 64
"""Characters of a text that is only counted, for each token of the context."""


class Texts:
    """Handlers, each of one body and one exchange."""

    def __init__(self, served: Served) -> None:
        self._served = served

    async def score(self, body: bodies.ScoreBody, exchange: Exchange) -> None:
        """POST /v1/score"""
        model = self._served.model(body.model)
        prompt = _prompt(body.prompt, body.messages)
        scores = await self._served.service.score(prompt, body.steps, body.mark, body.labels)
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
        service, model = self._served.service, self._served.model(body.model)
        if not service.scores:
            raise HttpError(400, "the model is no reward model; use /v1/score with labels", "model")
        if (body.input is None) == (body.messages is None):
            raise HttpError(400, "give exactly one of input and messages", "input")
        texts = [] if body.input is None else asked.listed(body.input, "input", self._served.options.max_prompts)
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
        self._served.model(body.model)
        tokenizer = self._served.loaded().tokenizer
        if (body.prompt is None) == (body.messages is None):
            raise HttpError(400, "give exactly one of prompt and messages", "prompt")
        most = _TIMES * self._served.service.context
        if body.prompt is not None and len(body.prompt) > most:
            said = f"prompt has {len(body.prompt):,} characters, more than {_TIMES} times the tokens of the context"
            raise HttpError(400, f"{said}; send it in parts", "prompt")
        if body.messages is None:
            ids = await self._served.service.beside(partial(tokenizer.encode, body.prompt or "", specials=True))
        elif body.add_generation_prompt:
            ids = await self._prompt_ids(body.messages, False)
        else:
            ids = await self._served.service.beside(partial(tokenizer.render, body.messages, False))
        reply = {"count": len(ids), "max_model_len": self._served.service.context, "tokens": ids}
        if body.return_token_strs:
            reply["token_strs"] = await self._served.service.beside(lambda: [tokenizer.decode([one]) for one in ids])
        await exchange.json(reply)

    async def detokenize(self, body: bodies.DetokenizeBody, exchange: Exchange) -> None:
        """POST /detokenize"""
        self._served.model(body.model)
        try:
            text = await self._served.service.beside(partial(self._served.loaded().tokenizer.decode, body.tokens))
        except InputError as error:
            raise HttpError(400, f"tokens: {error}", "tokens") from None
        await exchange.json({"prompt": text})

    async def apply_template(self, body: bodies.TemplateBody, exchange: Exchange) -> None:
        """POST /apply-template: with the opener of thinking, as the model gets it"""
        self._served.model(body.model)
        ids = await self._prompt_ids(body.messages, body.continue_final_message)
        await exchange.json({"prompt": self._served.service.tokenizer.decode(ids), "tokens": ids})

    async def _prompt_ids(self, messages: list[dict[str, Any]], continues: bool) -> list[int]:
        """What the model gets of a chat, the opener of thinking behind it."""
        params = SamplingParams(continue_final_message=continues)
        (prepared,) = await self._served.service.prepare([{"messages": of_chat(messages)}], params)
        return prepared.prompt.tolist()


def _prompt(prompt: str | list[int] | None, messages: list[dict[str, Any]] | None) -> Prompt:
    if (prompt is None) == (messages is None):
        raise HttpError(400, "give exactly one of prompt and messages", "prompt")
    if messages is not None:
        return {"messages": messages}
    return {"text": prompt} if isinstance(prompt, str) else prompt or []
