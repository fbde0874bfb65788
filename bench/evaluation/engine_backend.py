"""Samples from the engine in this process."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from bench.evaluation.samples import Request, Sample
from engine import Engine, EngineDead, Handle, RequestOutput, SamplingParams
from engine.schedule.sequence import Prepared


class EngineBackend:
    """Requests go to `engine` as token ids; it batches what is open."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.slots = engine, engine.config.max_num_seqs

    def prompt(self, messages: Sequence[Mapping[str, str]], opener: str | None, params: SamplingParams) -> Request:
        """Chat template and opener as token ids. Raises InputError where the request cannot run."""
        if opener is None:
            return Request(tuple(self.engine.prepare({"messages": messages}, params).prompt), params)
        tokenizer = self.engine.tokenizer
        return Request(tuple(tokenizer.render(messages) + tokenizer.encode(opener, specials=True)), params)

    def prepare(self, request: Request) -> Prepared:
        """The request as the engine will run it. Raises InputError where it cannot."""
        return self.engine.prepare(cast(tuple[int, ...], request.prompt), request.params)

    def submit(self, request: Request, done: Callable[[Sample | BaseException], None]) -> None:
        """Queue a request. Raises InputError where it cannot run."""

        def finished(handle: Handle) -> None:
            try:
                done(_sample(handle.result()))
            except EngineDead as error:
                done(error)

        self.engine.submit_prepared(self.prepare(request)).add_done_callback(finished)


def _sample(output: RequestOutput) -> Sample:
    one = output.outputs[0]
    chosen, total = len(one.token_ids) - len(one.forced), one.cumulative_logprob
    return Sample(
        token_ids=tuple(one.token_ids),
        forced=tuple(one.forced),
        reasoning=one.reasoning,
        answer=one.answer,
        finish_reason=one.finish_reason,
        thinking_tokens=one.thinking.tokens,
        extensions=one.thinking.extensions,
        stop_reason=one.thinking.stop_reason,
        prompt_tokens=output.usage.prompt_tokens,
        cached_tokens=output.usage.cached_tokens,
        completion_tokens=output.usage.completion_tokens,
        mean_logprob=None if total is None else total / max(1, chosen),
        error=one.error,
        timing={"queue_s": output.timing.queue_s, "ttft_s": output.timing.ttft_s, "total_s": output.timing.total_s},
    )
