"""Token ids of a conversation whose last message, the assistant's, is not over."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import InputError
from engine.text.chat_template import check_messages, content_text
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import ThinkingFormat, inside_thinking

WAY_OUT = "leave it out, or end messages with what the assistant says"


def can_continue(messages: Any) -> bool:
    """Whether the last of the messages is a text of the assistant's. Raises InputError where they are no messages."""
    check_messages(messages)
    last = messages[-1]
    return last["role"] == "assistant" and content_text(last) is not None and not last.get("tool_calls")


def continued_ids(
    tokenizer: Tokenizer, format: ThinkingFormat, messages: Sequence[Mapping[str, Any]], most: int | None = None
) -> list[int]:
    """Ids up to the end of the last message's text: no end of turn, no new header, and no opener behind it.

    A text that begins with the format's opener, or holds its end (as our own `text` does, whose opener is in the
    prompt), is thinking: it is put behind the generation prompt, as if the model had written it, since templates drop
    or close the thinking of messages. Opener and end are special tokens there; whatever else it spells is text. Raises
    InputError as `Tokenizer.render` does, and where the template does not write the text as it is.
    """
    if not can_continue(messages):
        raise InputError(
            f"continue_final_message is true and the last message is no text of the assistant's; {WAY_OUT}"
        )
    text = content_text(messages[-1]) or ""
    opener, end = tokenizer.decode(format.opener), tokenizer.decode(format.end)
    mark = opener.rstrip()
    opened = format.thinks and text.lstrip().startswith(mark)
    if not opened and not (format.thinks and end in text):
        return tokenizer.render(messages, most=most, open_end=True)
    if len(messages) == 1:
        raise InputError("the first message is the assistant's; put what it answers before it")
    ids = tokenizer.render(messages[:-1], most=most)
    if not inside_thinking(format, ids, tokenizer.eos_token_ids, tokenizer):
        ids += format.opener
    if opened:
        text = text.lstrip()[len(mark) :].removeprefix(opener[len(mark) :])
    reasoning, ended, answer = text.partition(end)
    stands = format.end
    if not ended:  # its first tokens, where a text was aborted while they were written, or none
        starts = (format.end[:size] for size in reversed(range(len(format.end))))
        stands = next(start for start in starts if reasoning.endswith(tokenizer.decode(start)))
        reasoning = reasoning.removesuffix(tokenizer.decode(stands))
    tokenizer.extend(ids, reasoning, most)
    ids += stands
    tokenizer.extend(ids, answer, most)
    return ids
