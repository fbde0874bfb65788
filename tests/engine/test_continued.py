"""A last message of the assistant's is continued: as transformers renders it, inside thinking and behind it."""

import pytest

from engine import Engine, InputError, SamplingParams
from engine.model.embedded import EMBEDDED
from engine.prepare import Preparer
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import resolve_format
from kernels.thinking import Phase
from tests.conformance.scripted import CHATML
from tests.engine.conftest import needs_qwen

S1, CLOSED = "<|im_start|>think\n", "\n<|im_start|>answer\n"
HEADER = "{{ '<|im_start|>' + m.role + '\n' }}"
TURNS = "{% for m in messages %}" + HEADER + "%s{{ '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
QWEN3 = (
    TURNS.replace(
        "%s",
        "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' + m.content.split('</think>')[-1] }}"
        "{% else %}{{ m.content }}{% endif %}",
    )
    + PROMPT
)
"""Like Qwen3's: of the last message the thinking is taken out and written anew."""


def said(text: str, question: str = "What is 12 + 7?") -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": text}]


def prepared(tokenizer: Tokenizer, messages: list, form: str = "s1", **params):
    return Preparer(tokenizer, form, 4096).prepare({"messages": messages}, SamplingParams(**params))


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer.load(EMBEDDED)


TEXTS = ["The answer is", "19, since ", "  12\n\n", "", "\n", " ", "é🙂", "1 + 1 = {{ 2 }} %} |"]


@needs_qwen
@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_those_of_transformers(qwen, oracle, text):
    for messages in (said(text), [*said("a", "b"), *said(text)], [{"role": "system", "content": "x"}, *said(text)]):
        rendered = oracle.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        ids = prepared(qwen, messages).prompt.tolist()
        assert ids == oracle.encode(rendered, add_special_tokens=False) and qwen.decode(ids) == rendered


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("written", ["{{ m.content | trim }}", "{{ m.content | wordwrap(99) }}", "{{ m.content }}"])
def test_templates_that_trim_and_those_without_a_bound(small, text, written):
    """White space that the template takes off the end is not continued. `wordwrap` runs in the guarded process."""
    tokenizer = small(TURNS.replace("%s", written))
    if "wordwrap" in written and text != text.strip():
        return  # it does not leave white space as it is
    want = text.strip() if "trim" in written else text
    shown = tokenizer.decode(prepared(tokenizer, said(text)).prompt)
    assert shown == f"<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n{want}"


@pytest.mark.parametrize(
    "written",
    ["{{ m.content | upper }}", "{{ m.content[:3] }}", "{{ m.content + m.content }}", "", "{{ m.content | tojson }}"],
)
def test_a_template_that_does_not_write_the_text_is_named(small, written):
    tokenizer = small(TURNS.replace("%s", written))
    with pytest.raises(InputError, match=r"chat template does not write .* set continue_final_message to false"):
        prepared(tokenizer, said('so "a" is'))
    prepared(tokenizer, said('so "a" is'), continue_final_message=False)


@pytest.mark.parametrize("which", ["nano", pytest.param("qwen", marks=needs_qwen)])
def test_inside_thinking_and_behind_it(which, request):
    tokenizer = request.getfixturevalue(which)
    format = resolve_format("s1", tokenizer)
    head = tokenizer.render(said("")[:1])
    thought, answer = tokenizer.encode("\n12 + 7 is"), tokenizer.encode("\nFinal")

    inside = prepared(tokenizer, said(S1 + "12 + 7 is"), thinking_token_budget=30)
    assert inside.prompt.tolist() == [*head, *format.opener, *thought]
    assert (inside.plan.phase, inside.plan.thinking) == (Phase.THINK, len(thought))

    thought = tokenizer.encode("\n12 + 7 is\n")
    behind = prepared(tokenizer, said(S1 + "12 + 7 is" + CLOSED + "Final"))
    assert behind.prompt.tolist() == [*head, *format.opener, *thought, *format.end, *answer]
    assert (behind.plan.phase, behind.plan.thinking) == (Phase.ANSWER, 0)
    closing = prepared(tokenizer, said(S1 + "12 + 7 is\n<|im_start|>"))
    assert closing.prompt.tolist() == [*head, *format.opener, *thought, format.end[0]]
    assert (closing.plan.phase, closing.plan.thinking, closing.plan.closing_at) == (Phase.CLOSING, len(thought), 1)
    text = tokenizer.decode([*thought, *format.end, *answer])  # as an output has it: the opener was in the prompt
    assert prepared(tokenizer, said(text)).prompt == behind.prompt

    plain = prepared(tokenizer, said("12 + 7 is"))
    assert plain.plan.phase is Phase.PLAIN and plain.prompt.tolist() == [*head, *tokenizer.encode("12 + 7 is")]


@pytest.mark.parametrize(
    "text", ["<|im_end|>\n<|im_start|>user\nx", f"{S1}<|im_end|>a<|im_start|>think", f"{S1}a{CLOSED}<|im_start|>answer"]
)
def test_only_opener_and_end_of_a_continued_text_are_special(nano, text):
    format, ids = resolve_format("s1", nano), prepared(nano, said(text)).prompt.tolist()
    assert nano.decode(ids).endswith(text)
    tail = ids[len(nano.render(said("")[:1])) :]
    special = [t for t in tail if nano.special_id(nano.token_bytes(t).decode("utf-8", "replace")) is not None]
    assert len(special) == text.startswith(S1) + (CLOSED in text) and special == [format.opener[0]] * len(special)


def test_templates_that_take_thinking_out_of_messages(small):
    """Thinking goes behind the generation prompt, whatever the template does to messages; an answer alone does not."""
    tokenizer = small(QWEN3)
    head = "<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n"
    for text, phase in (("<think>\nso", Phase.THINK), ("<think>\nso\n</think>\n\n19", Phase.ANSWER)):
        done = prepared(tokenizer, said(text), "qwen3")
        assert (tokenizer.decode(done.prompt), done.plan.phase) == (head + text, phase)
    assert tokenizer.decode(prepared(tokenizer, said("<think>so"), "qwen3").prompt) == f"{head}<think>\nso"
    assert tokenizer.decode(prepared(tokenizer, said("19"), "qwen3").prompt) == f"{head}<think>\n\n</think>\n\n19"

    opening = small(CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"))
    for text in ("<think>\nso", "<think>\nso</think>\n\n19", "so</think>\n\n19"):
        shown = tokenizer.decode(prepared(opening, said(text), "qwen3").prompt)
        assert shown.endswith(f"assistant\n<think>\n{text.removeprefix('<think>').lstrip()}")


def test_what_cannot_be_continued_is_named(nano, capsys):
    user, assistant = said("x")
    calls = {**assistant, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    for messages in ([user], [user, assistant, user], [user, calls]):
        with pytest.raises(InputError, match="continue_final_message is true and the last message is no text"):
            prepared(nano, messages, continue_final_message=True)
        for wanted in (None, False):
            assert nano.decode(prepared(nano, messages, continue_final_message=wanted).prompt).endswith("think")
    for prompt in ("why", [1, 2]):
        with pytest.raises(InputError, match="continue_final_message is true and the"):
            Preparer(nano, "s1", 4096).prepare(prompt, SamplingParams(continue_final_message=True))
    with pytest.raises(InputError, match="first message is the assistant's"):
        prepared(nano, [{"role": "assistant", "content": S1}])
    with pytest.raises(InputError, match="continue_final_message is 1; give true or false"):
        SamplingParams(continue_final_message=1)
    with pytest.raises(InputError, match=r"at least .* tokens and the context holds"):
        prepared(nano, said(S1 + "1" * 100_000))
    assert capsys.readouterr().err == "", "what is refused is not continued"


def test_it_is_told_once_where_nobody_asked_for_it(nano, capsys):
    preparer = Preparer(nano, "s1", 4096)
    asked = {"messages": said("It is")}
    closed = preparer.prepare(asked, SamplingParams(continue_final_message=False)).prompt
    assert nano.decode(closed).endswith("It is<|im_end|>\n<|im_start|>assistant\n<|im_start|>think")
    preparer.prepare(asked, SamplingParams(continue_final_message=True))
    assert capsys.readouterr().err == ""
    for _ in range(3):
        assert nano.decode(preparer.prepare(asked, SamplingParams()).prompt).endswith("assistant\nIt is")
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "continue_final_message false opens a new turn" in told


def test_a_run_that_is_continued_ends_like_the_one_that_was_not_cut():
    """Greedy, s1-nano: the text up to any line of the thinking, or up to the answer, leads to the same end, and the
    budget counts what the text holds."""
    question = "What is 12 + 7?"
    with Engine(kv_cache_tokens=4096, max_model_len=512) as engine:
        whole = engine.generate([question], SamplingParams(thinking_token_budget=40, max_tokens=120))[0]
        done, head = whole.outputs[0], len(whole.prompt_token_ids)
        ids = [*whole.prompt_token_ids, *done.token_ids]
        thinking = engine.tokenizer.encode("<|im_start|>", specials=True)
        end = ids.index(thinking[0], head) - head
        lines = [at + 1 for at in range(end) if engine.tokenizer.decode(done.token_ids[at : at + 1]) == "\n"]
        cuts = [*lines[:4], end + 2]
        assert len(cuts) >= 3 and done.thinking.tokens > lines[1]
        messages = [said(S1[:-1] + engine.tokenizer.decode(done.token_ids[:cut]), question) for cut in cuts]
        params = SamplingParams(thinking_token_budget=40, max_tokens=80)
        for cut, again in zip(cuts, engine.generate([{"messages": m} for m in messages], params), strict=True):
            assert again.prompt_token_ids == ids[: head + cut]
            assert again.outputs[0].token_ids == done.token_ids[cut:]
            assert again.outputs[0].answer == done.answer
            if cut <= end:
                assert again.outputs[0].thinking.tokens == done.thinking.tokens
                assert again.usage.reasoning_tokens == done.thinking.tokens - cut


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_text_parts_are_joined(nano):
    joined = said("It <|im_end|>", "Why? Because.")
    apart = [
        {"role": "user", "content": parts("Why? ", "Because.")},
        {"role": "assistant", "content": parts("It ", "", "<|im_", "end|>")},
    ]
    for continues in (True, False):
        want = prepared(nano, joined, continue_final_message=continues)
        assert prepared(nano, apart, continue_final_message=continues).prompt == want.prompt
    inside = [joined[0], {"role": "assistant", "content": parts("<|im_start|>", "think\nso")}]
    assert prepared(nano, inside).plan.phase is Phase.THINK


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "x"}}],
            r"\[0\] is a part of the type 'image_url'; only text parts",
        ),
        ([*parts("a"), {"type": "input_audio"}], r"\[1\] is a part of the type 'input_audio'; only text parts"),
        ([], "is an empty list; give a string, or a list of text parts"),
        (["a"], r"\[0\] is 'a'; give a part such as"),
        ([{"text": "a"}], r"\[0\] is {'text': 'a'}; give a part such as"),
        ([{"type": ["text"], "text": "a"}], r"\[0\] is {.*; give a part such as"),
        ([{"type": "text"}], r"\[0\] is {.*; a text part has its type and a text"),
        ([{"type": "text", "text": None}], r"\[0\] is {.*; a text part has its type and a text"),
        ([{"type": "text", "text": "a", "cache_control": {}}], r"\[0\] is {.*; a text part has .* nothing else"),
        (parts("a", "b\udc80"), r"\[1\].text holds the lone surrogate U\+DC80"),
        (parts("\udfff"), r"\[0\].text holds the lone surrogate U\+DFFF"),
    ],
)
def test_other_parts_are_named(nano, content, message):
    with pytest.raises(InputError, match=r"messages\[0\].content" + message.replace(r"is an", r" is an", 1)):
        nano.render([{"role": "user", "content": content}])
