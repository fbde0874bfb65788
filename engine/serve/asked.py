"""From a body to what the engine takes: prompts, and parameters by our names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.command.openai_batch import read_chat_parameters, read_parameters
from engine.errors import InputError, shown
from engine.request import Prompt, SamplingParams
from engine.serve.bodies import (
    ChatBody,
    CompletionBody,
    MessagesBody,
    ResponsesBody,
    Sampling,
    Thinking,
)
from engine.serve.conversations import of_anthropic, of_items

_BUDGETS = (
    *("thinking_token_budget", "max_thinking_tokens", "thinking_budget"),
    *("thinking_budget_tokens", "reasoning_budget_tokens"),
)
"""The budget by all its names."""
_OURS = (
    *("stream", "stream_options", "echo", "return_token_ids", "thinking_events", "include_reasoning"),
    *("separate_reasoning", "add_generation_prompt", "chat_template_kwargs", "thinking", "reasoning"),
    *("reasoning_effort", "input", "instructions", "max_output_tokens", "system", "stop_sequences"),
    *("output_config", *_BUDGETS),
)
"""Fields that are read here, or by who shapes the reply."""


def sampling(body: Sampling, base: SamplingParams, efforts: Mapping[str, int], thinks: bool) -> SamplingParams:
    """`base` under what the body says; `efforts` are budgets by name, -1 for none; `thinks`: the model does. Raises
    InputError naming the field."""
    given = {name: getattr(body, name) for name in body.__struct_fields__}
    given = {name: value for name, value in given.items() if value is not None and name not in _OURS}
    values = read_chat_parameters(given) if isinstance(body, ChatBody) else read_parameters(given)
    if values.get("seed") == -1:
        del values["seed"]
    kwargs = body.chat_template_kwargs or {} if isinstance(body, ChatBody) else {}
    budget = _budget(body, _enabled(kwargs), efforts, thinks)
    if budget == -1:
        base = replace(base, thinking_token_budget=None)
    elif budget is not None:
        values["thinking_token_budget"] = budget
    return SamplingParams.from_dict(values, base)


def _enabled(kwargs: Mapping[str, Any]) -> bool:
    """What `chat_template_kwargs` may say."""
    for name, value in kwargs.items():
        if name in _BUDGETS:
            raise InputError(f"chat_template_kwargs has {name}, which belongs beside it; move it to the top level")
        if name != "enable_thinking" or not isinstance(value, bool):
            raise InputError(
                f"chat_template_kwargs has {shown(name)}: {shown(value)}; give enable_thinking as true or false, or "
                "leave it out"
            )
    return kwargs.get("enable_thinking", True)


def _budget(body: Sampling, enabled: bool, efforts: Mapping[str, int], thinks: bool) -> int | None:
    """The budget that the body asks for in one of many ways: -1 for none, None where it says nothing."""
    named = {name: getattr(body, name) for name in _BUDGETS if getattr(body, name) is not None}
    thinking, reasoning = body.thinking or Thinking(), body.reasoning
    if thinking.budget_tokens is not None:
        named["thinking.budget_tokens"] = thinking.budget_tokens
    if reasoning is not None and reasoning.max_tokens is not None:
        named["reasoning.max_tokens"] = reasoning.max_tokens
    if not enabled and thinks:  # else there is nothing to switch off
        named["chat_template_kwargs.enable_thinking"] = 0
    if thinking.type == "disabled" and thinks:
        named["thinking.type"] = 0
    if len({*named.values()}) > 1:
        raise InputError(
            f"{' and '.join(f'{name} ({value})' for name, value in named.items())} differ; give one of them"
        )
    if named:
        return next(iter(named.values()))
    effort = body.reasoning_effort or (reasoning.effort if reasoning is not None else None)
    if effort is None:
        return None
    if effort not in efforts:
        raise InputError(f"reasoning_effort is {shown(effort)}; give one of {', '.join(efforts)}")
    return efforts[effort]


def completion_prompts(body: CompletionBody, most: int) -> list[Prompt]:
    """Each prompt of the body, texts and ids taken as they are. Raises InputError where it is none, and where a stream
    would have nothing to bring."""
    if body.stream and body.max_tokens == 0:
        raise InputError("max_tokens is 0 and stream is true, so nothing would come by and by; leave stream out")
    given = listed(body.prompt, "prompt", most)
    return [{"text": one} if isinstance(one, str) else one for one in given]


def listed(given: str | Sequence[str | int | list[int]], name: str, most: int) -> list[str | list[int]]:
    """One text, a list of them, the ids of one, or a list of such lists, as a list. Raises InputError for anything
    else, for an empty one, and for more than `most`."""
    one = isinstance(given, str) or (bool(given) and all(isinstance(token, int) for token in given))
    texts: Sequence[Any] = [given] if one else given
    if not texts or not (one or {*map(type, texts)} <= {str} or {*map(type, texts)} <= {list}):
        raise InputError(f"{name} is {shown(given)}; give a text, texts, token ids or lists of them")
    if len(texts) > most:
        raise InputError(f"{name} has {len(texts):,} prompts and a request at most {most:,}; send several")
    for at, text in enumerate(texts):
        if not text:
            raise InputError(f"{name}[{at}] is empty; give a question, or leave it out")
    return [*texts]


_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "include": ([], ["reasoning.encrypted_content"]),
    "text": ({}, {"format": {"type": "text"}}),
    "truncation": ("disabled",),
    "previous_response_id": (),
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "max_tool_calls": (),
    "top_logprobs": (0,),
}
"""What /v1/responses may ask for and is not done, and the values of it that ask for nothing."""


def responses(
    body: ResponsesBody, base: SamplingParams, efforts: Mapping[str, int], thinks: bool
) -> tuple[Prompt, SamplingParams]:
    """The body of /v1/responses in our terms, as `sampling`."""
    for name, values in _NOTHING.items():
        value = getattr(body, name)
        if value is not None and value not in values:
            raise InputError(f"{name} is {shown(value)}, which this engine cannot do; leave it out")
        setattr(body, name, None)
    _refuse_several(body)
    if body.max_output_tokens is not None:
        body.max_tokens = body.max_output_tokens
    first = [{"role": "system", "content": body.instructions}] if body.instructions else []
    given = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else of_items(body.input)
    return {"messages": [*first, *given]}, sampling(body, base, efforts, thinks)


def anthropic(
    body: MessagesBody, base: SamplingParams, efforts: Mapping[str, int], thinks: bool
) -> tuple[Prompt, SamplingParams]:
    """The body of /v1/messages in our terms, as `sampling`. A last message of the assistant's is continued."""
    _refuse_several(body)
    if body.thinking is not None and body.thinking.type == "disabled" and body.thinking.budget_tokens:
        raise InputError("thinking.budget_tokens is given and thinking.type is disabled; leave one out")
    if body.stop_sequences is not None:
        if body.stop not in (None, [], body.stop_sequences):
            raise InputError("stop and stop_sequences differ; give one of them")
        body.stop = body.stop_sequences
    if body.output_config is not None and body.reasoning_effort is None:
        body.reasoning_effort = body.output_config.effort
        if body.reasoning_effort not in (None, *efforts):
            raise InputError(
                f"output_config.effort is {shown(body.reasoning_effort)}; give one of {', '.join(efforts)}"
            )
    base = replace(base, continue_final_message=body.messages[-1].get("role") == "assistant")
    return {"messages": of_anthropic(body)}, sampling(body, base, efforts, thinks)


def _refuse_several(body: MessagesBody | ResponsesBody) -> None:
    if body.n not in (None, 1):
        raise InputError(f"n is {body.n} and the reply is one; leave it out, or ask for a chat")
