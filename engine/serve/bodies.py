"""Bodies of requests: every field that one may have, and its type. What is not here is refused by its name.

Names and meanings of what draws and thinks are those of `engine.request.SamplingParams`; null is as good as absent.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Label = Annotated[str, Meta(max_length=512)]


class Thinking(Struct, forbid_unknown_fields=True):
    """Anthropic's way to say how long to think; others have taken it over."""

    type: Literal["enabled", "disabled", "adaptive"] = "enabled"
    budget_tokens: Count | None = None
    display: Literal["summarized", "omitted"] | None = None


class Reasoning(Struct, forbid_unknown_fields=True):
    """OpenRouter's way to say it."""

    effort: str | None = None
    max_tokens: Count | None = None
    summary: str | None = None
    """Taken, and none is made: the reasoning itself is shown"""


class OutputConfig(Struct, forbid_unknown_fields=True):
    """Anthropic's newer way to say it."""

    effort: str | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class Sampling(Struct, forbid_unknown_fields=True, kw_only=True):
    """How to draw, how to think, and what to show."""

    model: str | None = None
    seed: Annotated[int, Meta(ge=-1, le=2**63 - 1)] | None = None
    """-1: none"""
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    banned_token_ids: list[int] | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    pause: list[str] | None = None
    pause_tokens: Count | None = None

    thinking_format: str | dict[str, Any] | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """-1: no limit, whatever the server's default is"""
    min_thinking_tokens: Count | None = None
    thinking_extensions: Count | None = None
    thinking_extension_str: str | None = None
    thinking_end_str: str | None = None
    thinking_grace_tokens: Count | None = None
    thinking_budget_action: Literal["force_end", "truncate"] | None = None
    thinking_eos_policy: Literal["end", "stop"] | None = None
    min_answer_tokens: Count | None = None
    answer_reserve_tokens: Count | None = None
    loop_ngram: Count | None = None
    loop_count: Count | None = None
    max_thinking_tokens: Annotated[int, Meta(ge=-1)] | None = None
    thinking_budget: Annotated[int, Meta(ge=-1)] | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    reasoning_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """The budget by names that others gave it"""
    thinking: Thinking | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    """A name in the server's table of budgets"""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    thinking_events: bool = False
    """Chunks of a stream say what their text is, and whether the engine wrote it"""

    user: Label | None = None
    metadata: Annotated[dict[str, Label], Meta(max_length=16)] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: str | None = None
    best_of: Any = None
    response_format: Any = None


class ChatBody(Sampling, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    continue_final_message: bool = False
    add_generation_prompt: Literal[True] = True
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool = True
    separate_reasoning: bool = True
    """false: the reasoning stays in the content, with its delimiters"""
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    verbosity: Any = None


class CompletionBody(Sampling, kw_only=True):
    """POST /v1/completions: texts and token ids are taken as they are"""

    prompt: str | list[str | int | list[int]]
    logprobs: Count | None = None
    echo: bool = False
    suffix: Any = None


class ResponsesBody(Sampling, kw_only=True):
    """POST /v1/responses: nothing is stored, so nothing earlier can be named"""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    include_reasoning: bool = True
    include: Any = None
    text: Any = None
    truncation: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: Any = None
    max_tool_calls: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    top_logprobs: Any = None


class MessagesBody(Sampling, kw_only=True):
    """POST /v1/messages, as Anthropic's client sends it, with our parameters beside"""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    output_config: OutputConfig | None = None
    tools: Any = None
    tool_choice: Any = None


class CountBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/messages/count_tokens"""

    model: str | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    system: str | list[dict[str, Any]] | None = None
    thinking: Thinking | None = None
    tools: Any = None
    tool_choice: Any = None


class EndThinking(Struct, tag_field="action", tag="end_thinking", forbid_unknown_fields=True):
    """Close the thinking now"""


class Extend(Struct, tag_field="action", tag="extend", forbid_unknown_fields=True):
    """Replace one more end of thinking by the extension"""


class Budget(Struct, tag_field="action", tag="budget", forbid_unknown_fields=True):
    """Move the budget; null lifts it"""

    budget: Count | None


ControlBody = EndThinking | Extend | Budget
"""POST /v1/requests/{id}/control"""


class TokenizeBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /tokenize: a text as it is, or messages as the template writes them"""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)] | None = None
    add_special_tokens: bool = True
    """Takes nothing away: no token is added to a text, and special tokens that it spells are such"""
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /detokenize"""

    model: str | None = None
    tokens: Annotated[list[int], Meta(max_length=2**20)]


class TemplateBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /apply-template"""

    model: str | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)]
    continue_final_message: bool = False


class ScoreBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/score: a score for each of the steps behind a prompt"""

    model: str | None = None
    prompt: str | list[int] | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)] | None = None
    steps: Annotated[list[str | list[int]], Meta(min_length=1, max_length=4096)]
    mark: str | int | None = None
    labels: Annotated[list[str | int], Meta(max_length=64)] = msgspec.field(default_factory=list)


class PoolingBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /pooling: the score of each text as a whole, by a reward model"""

    model: str | None = None
    input: str | list[str | int | list[int]] | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=2048)] | None = None
    encoding_format: Literal["float"] = "float"
    user: Label | None = None
