"""Conversations as training tokens: the ids that the engine would run, and which of them the assistant wrote.

Special tokens come from the chat template and from what the assistant says, whose turn holds s1's delimiters. What
anybody else spells is ordinary text, in training as in inference: the ids up to the assistant's turn are those that
`Tokenizer.render` gives the engine.
"""

from collections.abc import Mapping, Sequence

from engine.errors import InputError, refuse
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import PRESETS

THINK, ANSWER = f"{PRESETS['s1'].opener}\n", f"\n{PRESETS['s1'].end}\n"
"""What s1 writes before the trace, and between it and the answer."""


def s1_messages(question: str, thinking: str, answer: str) -> list[dict[str, str]]:
    """A sample of s1 as a conversation; "Answer: " is put before an answer that does not contain "Answer:"."""
    answer = answer if "Answer:" in answer else f"Answer: {answer}"
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": THINK + thinking.strip() + ANSWER + answer.strip()},
    ]


def training_tokens(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
    """Ids of a conversation, and for each whether it carries loss: from behind each assistant header to its turn's end.

    A token across the border is trained. Raises InputError where there is no assistant to train on, or where the
    template does not render a turn as its generation prompt and the turn.
    """
    whole = tokenizer.render(messages, add_generation_prompt=False)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    refuse(
        (0 in turns, "the first message is the assistant's; put what it answers before it"),
        (not turns, "no assistant message behind another one; nothing to train on"),
    )
    ids: list[int] = []
    trained: list[bool] = []
    done = 0
    for i in turns:
        head = tokenizer.render(messages[:i])
        turn = whole if i == len(messages) - 1 else tokenizer.render(messages[: i + 1], add_generation_prompt=False)
        texts = [tokenizer.bytes_of(part) for part in (head, turn, whole)]
        if not texts[1].startswith(texts[0]) or not texts[2].startswith(texts[1]):
            raise InputError(
                f"the chat template does not render message {i} as its generation prompt plus the turn; the "
                "assistant's text cannot be told from the rest"
            )
        begin, end = common(head, turn), common(turn, whole)
        written = tokenizer.encode(tokenizer.decode(whole[begin:end]), specials=True)
        ids += whole[done:begin] + written
        trained += [False] * (begin - done) + [True] * len(written)
        done = end
    return ids + whole[done:], trained + [False] * (len(whole) - done)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
