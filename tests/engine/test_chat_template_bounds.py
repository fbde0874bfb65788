"""What a model folder's chat template and a conversation may cost: time and memory of rendering, in which process."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.text import guarded
from engine.text.chat_template import MOST_SIZE, MOST_SOURCE, ChatTemplate
from engine.text.meter import Costly
from engine.text.template_program import TemplateProgram

SPECIALS = {"<|im_start|>": 7, "<|im_end|>": 8, "</think>": 9}
VARIABLES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
GENERATION = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
BOUNDED = {
    "ChatML": "{% for m in messages %}" + CHATML + "{% endfor %}" + GENERATION,
    "a default system message": (
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind"
        "<|im_end|>\n' }}{% endif %}" + CHATML + "{% endfor %}" + GENERATION
    ),
    "Llama 3": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|im_start|>' + "
        "message['role'] + '\n\n' + message['content'] | trim + '<|im_end|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}" + GENERATION
    ),
    "Llama 3.1": (
        "{% if not date is defined %}{% set date = strftime_now('%Y') %}{% endif %}{% if messages[0]['role'] == "
        "'system' %}{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{% else %}"
        "{% set system = '' %}{% endif %}{{ date + system }}{% for m in messages %}{% if not (m.role == 'tool' or "
        "'tool_calls' in m) %}{{ m['content'] | trim }}{% else %}{{ {'output': m.content} | tojson }}{% endif %}"
        "{% endfor %}"
    ),
    "Qwen 3": (
        "{% set ns = namespace(last=messages | length - 1) %}{% for m in messages[::-1] %}{% set at = (messages | "
        "length - 1) - loop.index0 %}{% if m.role == 'user' and not m.content.startswith('<tool') %}"
        "{% set ns.last = at %}{% endif %}{% endfor %}{% for m in messages %}{% set content = m.content if m.content is"
        " string else '' %}{% set thought = '' %}{% if '</think>' in content %}{% set thought = content.split("
        "'</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{% set content = content.split('</think>')[-1]"
        ".lstrip('\n') %}{% endif %}{% if loop.index0 > ns.last and thought %}{{ thought.strip('\n') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + content }}{% for call in m.tool_calls %}{{ call | tojson }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}" + GENERATION
    ),
    "alternating": (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate')"
        " }}{% endif %}{{ m.role ~ ': ' ~ m['content'] | trim }}{% endfor %}"
    ),
    "lists and macros": (
        "{% macro turn(m, mark='-') %}{{ mark }}{{ m.content }}{% endmacro %}{% set ns = namespace(all=[]) %}"
        "{% for m in messages if m.content %}{% set ns.all = ns.all + [m] %}{% endfor %}{% for m in ns.all %}"
        "{{ turn(m) }}{% endfor %}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
        "{{ ns.all | map(attribute='content') | map('trim') | join('\n') }}"
    ),
}

A, B = "{% for a in range(90000) %}", "{% endfor %}"


def grow(start: str, step: str) -> str:
    return "{% set ns = namespace(x=" + start + ") %}" + A + "{% set ns.x = " + step + " %}" + B


COSTLY = {
    "a power": "{% set x = 10 ** 10 ** 5 ** 3 %}{{ x ** x }}",
    "a repetition in constants": "{{ 'a' * 10 ** 10 }}",
    "a constant while compiling": "{% autoescape 'a' * 10 ** 10 %}x{% endautoescape %}",
    "a width of %": "{{ '%1000000000d' % 3 }}",
    "a width of format": "{{ '{:>100000000000}'.format(3) }}",
    "center": "{{ 'a'.center(10 ** 10) }}",
    "indent": "{{ ('a\n' * 1000) | indent(10 ** 8) }}",
    "an indent of JSON": "{{ messages | tojson(indent=10 ** 10) }}",
    "join": "{{ range(99999) | join('" + "x" * 60000 + "') }}",
    "doubling": "{% set x = 'aaaaaaaaaaaaaaaa' %}" + "{% set x = x + x %}" * 60,
    "doubling by ~": "{% set x = 'aaaaaaaaaaaaaaaa' %}" + "{% set x = x ~ x %}" * 60,
    "doubling by blocks": "{% set x = 'aaaaaaaaaaaaaaaa' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "doubling lists": "{% set x = [1] %}" + "{% set x = x + x %}" * 60,
    "nested lists": "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60 + "{{ x }}",
    "nested namespaces": "{% set x = namespace() %}" + "{% set x = namespace(a=x, b=x) %}" * 60 + "{{ x }}",
    "raising them": "{% set x = namespace() %}" + "{% set x = namespace(a=x, b=x) %}" * 60 + "{{ raise_exception(x) }}",
    "growing numbers": grow("3", "ns.x * ns.x"),
    "replace": grow("'aaaa'", "ns.x.replace('a', 'aaaaaaaa')"),
    "a method kept": "{% set f = messages[0].content.replace %}" + A + "{% set x = f('', 'b' * 10 ** 8) %}" + B,
    "kept lists": grow("[]", "ns.x + range(99999) | list"),
    "loops": A + A + B + B,
    "loops that leave everything out": A + "{% for b in range(90000) if false %}{% endfor %}" + B,
    "macros that call twice": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "filters of ranges": A + "{% set x = range(99999) | list %}" + B,
    "sorting": A + "{% set x = range(99999) | sort %}" + B,
    "cycler": "{% set c = cycler(1, 2) %}" + A + A + "{{ c.next() }}" + B + B,
    "lipsum": "{{ lipsum(n=100000000) }}",
    "batch": "{{ range(99999) | batch(1000000000, 'x') | list }}",
}
QUICK = ("a repetition in constants", "doubling", "nested lists", "loops")


LONG = "{% set x = '" + "😀" * 1000 + "' %}" + "{% set x = x + x %}" * 11
MANY = LONG + "{% set l = [x] %}" + "{% set l = l + l %}" * 10
METERED = {
    "a separator behind every character": LONG + "{{ x | join('" + "😀" * 64 + "') }}",
    "an item of every character": LONG + "{{ x | map('upper') | list | length }}" * 3,
    "filters of what filters make": LONG + "{{ x" + " | map('upper')" * 40 + " | join }}",
    "a loop's rest": A + A + "{% set x = loop | list %}" + B + B,
    "raising a long list": MANY + "{{ raise_exception(message=l) }}",
    "looking for a long list": MANY + "{{ messages[0][l].x }}",
    "a width of the date": LONG + "{% set f = strftime_now %}{{ f(x) }}",
}
"""Templates that look bounded and must be found out by the meter, while they are rendered."""


def chat(count: int, content: str = "Why? <think>\nx\n</think>\n\nSo. ") -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": f"{content}{i}"} for i in range(count)]


@pytest.mark.parametrize("source", BOUNDED.values(), ids=BOUNDED)
def test_known_constructs_stay_in_this_process_and_mean_the_same(source):
    template = ChatTemplate(source, SPECIALS, VARIABLES)
    plain = TemplateProgram(source, SPECIALS, VARIABLES, metered=False)
    for messages in (chat(1), chat(2), chat(21)):
        assert template.bounded
        assert template.render(messages) == plain.render(messages, True, 0, MOST_SIZE)
    assert template._guarded._process is None


def test_what_has_no_known_bound_is_rendered_elsewhere_with_the_same_meaning():
    source = "{% for m in messages %}{{ '<|im_start|>' }}{{ m.content | replace('W', 'w') | wordwrap(9) }}{% endfor %}"
    template = ChatTemplate(source, SPECIALS, VARIABLES)
    assert not template.bounded
    want = TemplateProgram(source, SPECIALS, VARIABLES, metered=False).render(chat(3), True, 0, MOST_SIZE)
    assert template.render(chat(3)) == want
    process = template._guarded._process
    assert template.render(chat(3)) == want and template._guarded._process is process  # one process, kept
    process.kill()
    process.wait()
    assert template.render(chat(3)) == want  # and started again


@pytest.mark.parametrize("source", METERED.values(), ids=METERED)
def test_what_operations_make_is_charged(source):
    program = TemplateProgram(source, SPECIALS, VARIABLES)
    assert program.bounded
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(Costly):
        program.render(chat(1), True, 100, MOST_SIZE)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 3  # it takes a tenth of a second
    assert after.ru_maxrss - before.ru_maxrss < 200_000  # KB


@pytest.mark.parametrize("filter", ["title", "tojson(indent=64)", "tojson(True)"])
def test_filters_that_make_more_than_they_are_given_have_no_bound(filter):
    assert not TemplateProgram("{{ messages | " + filter + " }}", SPECIALS, VARIABLES).bounded


def refused(template: str, monkeypatch, cpu_s: int) -> None:
    monkeypatch.setattr(guarded, "CPU_LIMIT_S", cpu_s)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = ChatTemplate(template, SPECIALS, VARIABLES)
    with pytest.raises(InputError, match="the chat template") as caught:
        program.render(chat(2))
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KB
    assert program._guarded._process is None or program._guarded._process.poll() is None  # none is left unreaped


@pytest.mark.parametrize("name", QUICK)
def test_templates_that_cost_too_much_are_refused(name, monkeypatch):
    refused(COSTLY[name], monkeypatch, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COSTLY.keys() - {*QUICK}))
def test_every_way_to_cost_too_much_is_refused(name, monkeypatch):
    refused(COSTLY[name], monkeypatch, 1)


def test_a_process_that_is_killed_names_its_limits(monkeypatch):
    monkeypatch.setattr(guarded, "CPU_LIMIT_S", 1)
    template = ChatTemplate(A + A + B + B, SPECIALS, VARIABLES)
    start = time.monotonic()
    with pytest.raises(InputError, match="the chat template took more than 1 s of processor time"):
        template.render(chat(1))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "source",
    [
        "x" * (MOST_SOURCE + 1),
        "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for a in b %}" * 25 + "{% endfor %}" * 25,
        "{{ " + "9" * 50_000 + " }}",
        "{{ 1" + " | string" * 7000 + " }}",
        "{{ a" + ".b" * 20_000 + " }}",
    ],
    ids=["long", "parentheses", "ifs", "loops", "a number", "filters", "attributes"],
)
def test_sources_beyond_reason_are_one_line(source):
    with pytest.raises(InputError, match="chat template") as caught:
        ChatTemplate(source, SPECIALS, VARIABLES).render(chat(1))
    assert len(str(caught.value)) < 1100 and "\n" not in str(caught.value)


def test_messages_have_a_size_and_a_depth():
    template = ChatTemplate("{{ messages[0].content }}", SPECIALS, VARIABLES)
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    wide = [[0] * 1000] * (MOST_SIZE // 16_000 + 1)
    cyclic: list = []
    cyclic.append(cyclic)
    for more, message in (
        (deep, "levels deep"),
        (cyclic, "levels deep"),
        (wide, "larger than"),
        ([10**4000] * 9999, "larger"),
    ):
        with pytest.raises(InputError, match=message):
            template.render([{"role": "user", "content": "", "x": more}])


def test_a_message_that_spells_thousands_of_special_tokens_is_rendered_soon():
    specials = {f"<|{i}|>": i for i in range(4000)}
    template = ChatTemplate("{{ messages[0].content }}", specials, {})
    start = time.process_time()
    assert template.render(chat(1, " " * 2**21 + "".join(specials)))
    assert time.process_time() - start < 2  # it takes a tenth of a second; looking for each of them, six


def test_an_interrupted_call_leaves_no_answer_for_the_next_one():
    template = ChatTemplate("{{ messages[0].content | sort | last }}", SPECIALS, VARIABLES)
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            template.render(chat(1, "a"))  # the process takes longer to start
            time.sleep(60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert template.render(chat(1, "c")) == ["c"]


def test_the_helper_process_holds_no_engine_and_ends_with_its_parent():
    template = ChatTemplate("{{ messages | sort(attribute='role') | length }}", SPECIALS, VARIABLES)
    assert template.render(chat(2)) == ["2"]
    pid = template._guarded._process.pid
    status = Path(f"/proc/{pid}/maps").read_text()
    assert "libtorch" not in status
    del template
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
