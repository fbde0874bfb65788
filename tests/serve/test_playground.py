"""The playground in a real Chromium against the real server: what a person does there, and what must not happen.

A machine without Chromium fails these tests, unless S1_NO_BROWSER says that it has none.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.serve.playground_page import Playground
from tests.serve.running_server import RunningServer
from tests.serve.test_life import ports

QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"
LONG = "min=1900&budget=inf"
"""Thinking of half a second at least."""
SCRIPT = "<script>document.title='run'</script><img src=x onerror=document.title='run'>"

Open = Callable[..., Playground]


@pytest.fixture
def visit(browser: Browser, server: RunningServer) -> Iterator[Open]:
    """Opens the page; in the end nothing may have gone wrong in any."""
    opened: list[Playground] = []

    def visit(fragment: str = "waits=0", url: str = server.url, **window: Any) -> Playground:
        opened.append(Playground(browser, url, fragment if "waits" in fragment else f"waits=0&{fragment}", window))
        return opened[-1]

    yield visit
    for playground in opened:
        playground.context.close()
    assert [playground.wrong for playground in opened] == [[]] * len(opened)


def test_a_question_is_thought_about_and_answered(visit: Open, server: RunningServer) -> None:
    playground = visit("waits=2")
    expect(playground.part("model")).to_have_text("s1-nano · thinks after <|im_start|>think · context 2,048")
    playground.part("prompt").fill(QUESTION)
    playground.part("run").click()
    [thought] = playground.texts(1)
    body = {"messages": [{"role": "user", "content": QUESTION}], "thinking_extensions": 2, "seed": 1}
    reply = server.post("/v1/chat/completions", body).json()
    [choice], usage = reply["choices"], reply["usage"]
    assert thought.strip() == choice["message"]["reasoning"].strip()
    expect(playground.part("thinking", 1)).to_contain_text(thought.strip())
    chips = playground.part("thinking", 1).locator(".rest > mark, .shared > mark")
    assert chips.all_inner_texts() == ["Wait", "Wait"]
    expect(playground.part("rule", 1)).to_have_text("ended by itself")
    expect(playground.part("answer", 1)).to_have_text(choice["message"]["content"].strip())
    tokens = choice["thinking"]["tokens"]
    expect(playground.part("column-1").locator("h2")).to_contain_text(f"{tokens} of ∞ thinking tokens")
    for name, count in {"thinking": tokens, "forced": usage["completion_tokens_details"]["forced_tokens"]}.items():
        expect(playground.part(f"meter-{name}", 1)).to_have_text(f"{name}{count}")
    assert playground.run()["columns"][0]["thinking"] == choice["thinking"]


@pytest.mark.parametrize("budget", [100, 1500])
def test_the_budget_of_a_column_is_moved_while_it_thinks(visit: Open, budget: int) -> None:
    playground = visit(f"{LONG},inf")
    playground.part("run").click()
    expect(playground.part("answer-now", 1)).to_be_enabled()
    playground.part("budget-value").fill(str(budget))
    playground.texts(2)
    moved, other = playground.run()["columns"]
    [control], thinking = moved["controls"], moved["thinking"]
    assert (control["action"], control["budget"]) == ("budget", budget)
    assert other["thinking"]["tokens"] == 1900 and other["controls"] == []
    if control["thinking_tokens"] < budget - 300:  # there is time to hear of it
        assert (thinking["stop_reason"], thinking["tokens"]) == ("budget", budget)
    else:
        assert budget <= thinking["tokens"] < 1900
    ends = {"budget": f"budget {budget:,} reached", "natural": "ended by itself"}
    expect(playground.part("rule", 1)).to_have_text(ends[thinking["stop_reason"]])
    expect(playground.part("column-1").locator("h2")).to_contain_text(f"{thinking['tokens']:,} of {budget:,}")
    assert playground.part("answer", 1).inner_text()


def test_the_answer_is_asked_for(visit: Open) -> None:
    playground = visit(LONG)
    playground.part("run").click()
    playground.part("answer-now", 1).click()
    playground.texts(1)
    expect(playground.part("rule", 1)).to_have_text("answer asked for")
    thinking = playground.run()["columns"][0]["thinking"]
    assert thinking["stop_reason"] == "client" and thinking["tokens"] < 1900
    expect(playground.part("answer", 1).locator("mark")).to_have_text("Final Answer:")
    expect(playground.part("answer-now", 1)).to_be_disabled()


def test_it_is_told_to_think_on(visit: Open) -> None:
    playground = visit("min=900")
    playground.part("run").click()
    playground.part("think-on", 1).click()
    playground.texts(1)
    assert playground.run()["columns"][0]["thinking"]["extensions"] == 1
    expect(playground.part("thinking", 1).locator("mark", has_text="Wait").first).to_be_visible()


def test_escape_stops_it_and_ctrl_enter_starts_again(visit: Open, server: RunningServer) -> None:
    before = decoded(server)
    playground = visit(LONG)
    playground.part("prompt").press("Control+Enter")
    expect(playground.part("answer-now", 1)).to_be_enabled()
    playground.page.keyboard.press("Escape")
    expect(playground.part("status", 1)).to_have_text("stopped")
    expect(playground.part("stop")).to_be_disabled()
    while any(replica["running"] for replica in server.get("/server_info").json()["replicas"]):
        time.sleep(0.02)
    assert decoded(server) - before < 1900
    playground.part("min").fill("0")
    playground.page.keyboard.press("Control+Enter")
    [thought] = playground.texts(1)
    assert thought and playground.part("status", 1).inner_text() == ""


def test_three_budgets_are_compared(visit: Open) -> None:
    playground = visit("waits=2&budget=64,inf,32&run=1")
    thoughts = playground.texts(3)
    assert thoughts[2] and [request["seed"] for request in playground.requests()] == [1, 1, 1]
    marks: dict[int, list[tuple[str, int]]] = {1: [], 2: [], 3: []}
    for one, other in combinations((1, 2, 3), 2):
        common = shared(thoughts[one - 1], thoughts[other - 1])
        for column, against in ((one, other), (other, one)):
            if len(thoughts[column - 1]) > common:
                marks[column].append((str(against), common))
    for column, expected in marks.items():
        grey = max(shared(thoughts[column - 1], thoughts[other - 1]) for other in marks if other != column)
        pane = playground.part("thinking", column)
        assert pane.locator(".shared").text_content() == thoughts[column - 1][:grey]
        found = pane.get_by_test_id("divergence").evaluate_all(
            """(marks) => marks.map((mark) => {
              const before = new Range();
              before.selectNodeContents(mark.closest(".thinking"));
              before.setEndBefore(mark);
              return [mark.dataset.column, before.toString().length];
            })"""
        )
        assert sorted(map(tuple, found)) == sorted(expected)
    assert playground.part("badge").all_inner_texts() == ["2 of 3 agree", "differs", "2 of 3 agree"]
    assert len({playground.color(".shared"), playground.color("#column-2 .rest")}) == 2


def test_a_permalink_restores_the_form_and_runs(visit: Open) -> None:
    playground = visit()
    texts = {"prompt": 'it\'s "ü" & 1+1=2?\n#', "budget-value": "48", "budget-value-2": "6", "wait-string": "Hmm & so"}
    texts |= {"waits": "3", "min": "5", "temperature": "0.5", "seed": "7", "max-tokens": "200"}
    playground.part("columns-2").check()
    for name, value in texts.items():
        playground.part(name).fill(value)
    link = playground.exported("link")
    playground.page.wait_for_url(link)
    playground.page.reload()
    again = visit(link.partition("#")[2] + "&run=1")
    for page in (playground, again):
        expect(page.part("model")).to_contain_text("s1-nano")
        assert {name: page.part(name).input_value() for name in texts} == texts
        assert page.part("columns-2").is_checked()
    again.texts(2)
    assert again.requests()[1]["messages"] == [{"role": "user", "content": texts["prompt"]}]
    assert again.requests()[1]["thinking_token_budget"] == 6
    expect(playground.part("column-1")).to_have_attribute("data-state", "idle")


def test_exports_do_the_same_elsewhere(visit: Open) -> None:
    playground = visit("budget=40,8&waits=1")
    playground.part("prompt").fill('it\'s "1" $HOME `id` \\ ü\nAdd 2.')
    playground.part("run").click()
    thoughts = playground.texts(2)
    answers = [playground.part("answer", column).text_content() or "" for column in (1, 2)]
    assert all(answers)
    curl = subprocess.run(["bash", "-c", playground.exported("curl")], capture_output=True, text=True, timeout=60)
    chunks = [json.loads(line[6:]) for line in curl.stdout.splitlines() if line.startswith("data: {")]
    said = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert re.sub(r"\s+", "", said) == re.sub(r"\s+", "", "".join(answers))
    python = [sys.executable, "-c", playground.exported("python")]
    printed = subprocess.run(python, capture_output=True, text=True, timeout=60)
    told = "".join(thought + answer for thought, answer in zip(thoughts, answers, strict=True))
    assert re.sub(r"\s+", "", printed.stdout) == re.sub(r"\s+", "", told), printed.stderr


def test_markup_is_shown_and_nothing_of_it_runs(visit: Open) -> None:
    playground = visit("waits=1&budget=inf,12")

    def end_with_it(route: Route) -> None:
        body = {**json.loads(route.request.post_data or ""), "thinking_end_str": f"<|im_start|>answer\n{SCRIPT}"}
        route.continue_(post_data=json.dumps(body))

    playground.page.route("**/v1/chat/completions", end_with_it)
    playground.part("prompt").fill(f"{SCRIPT} {QUESTION}")
    playground.part("wait-string").fill(SCRIPT)
    playground.part("run").click()
    playground.texts(2)
    assert SCRIPT in playground.part("thinking", 1).inner_text()
    assert SCRIPT in playground.part("answer", 2).inner_text()
    for kind in ("curl", "python", "json", "link"):
        playground.exported(kind)
    expect(playground.page).to_have_title("s1-engine playground")
    expect(playground.page.locator("body script, body img")).to_have_count(0)


def test_the_policy_stops_what_the_page_would_let_through(visit: Open) -> None:
    playground = visit()
    url = "https://example.org/x.png"
    markup = f"<img src='{url}' onerror=document.title='run'><p style='color:red'>"
    playground.page.evaluate("(markup) => document.body.insertAdjacentHTML('beforeend', markup)", markup)
    expect(playground.page).to_have_title("s1-engine playground")
    stopped = [text for text in playground.wrong if "violates the following Content Security Policy" in text]
    assert len(stopped) >= 3 and {*playground.wrong} - {*stopped} <= {url}
    playground.wrong.clear()


def test_the_keyboard_is_enough(visit: Open) -> None:
    playground = visit()
    press = playground.page.keyboard.press
    expect(playground.part("model")).to_contain_text("s1-nano")
    playground.reach("prompt").press("Control+a")
    playground.page.keyboard.type(QUESTION)
    playground.reach("columns-1")
    press("ArrowRight")
    playground.reach("budget").press("Home")
    press("ArrowRight")
    expect(playground.part("budget-value")).to_have_value("8")
    playground.reach("budget-value-2").fill("inf")
    playground.reach("waits").press("ArrowRight")
    press("Enter")
    playground.reach("thinking")
    playground.texts(2)
    expect(playground.part("rule", 1)).to_have_text("budget 8 reached")
    expect(playground.part("answer", 2)).to_contain_text("46")
    playground.reach("export-json").press("Enter")
    playground.reach("export-text")
    press("Escape")
    expect(playground.part("export-text")).to_be_hidden()
    expect(playground.part("export-json")).to_be_focused()


def test_a_phone_has_nothing_to_scroll_sideways(visit: Open) -> None:
    playground = visit(
        "waits=2&budget=64,inf,32&wait=" + "W" * 60, viewport={"width": 390, "height": 844}, has_touch=True
    )
    expect(playground.part("model")).to_contain_text("s1-nano")
    assert playground.fits()
    playground.part("run").tap()
    expect(playground.part("column-1").locator("h2")).to_be_in_viewport()
    playground.texts(3)
    assert playground.fits()
    playground.part("export-curl").tap()
    assert playground.fits()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(visit: Open, scheme: Any) -> None:
    playground = visit("waits=1&budget=inf,32&run=1", color_scheme=scheme)
    playground.texts(2)
    assert playground.pale() == []
    paper = playground.color(":root", "backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) > 128) == (scheme == "light")
    playground.part("theme").click()
    assert playground.color(":root", "backgroundColor") != paper
    playground.page.reload()
    assert playground.color(":root", "backgroundColor") != paper


def test_a_server_wants_a_key_then_loads_and_dies(visit: Open) -> None:
    with RunningServer(environment={"S1_API_KEYS": "open-sesame"}, ready=False) as locked:
        while not (found := ports(locked.process.pid)):
            assert locked.process.poll() is None
            time.sleep(0.01)
        playground = visit(url=f"http://127.0.0.1:{found[0]}")
        expect(playground.part("model")).to_have_text("This server asks for an API key.")
        playground.part("run").click()
        expect(playground.part("status", 1)).to_have_text("This server asks for an API key.")
        playground.part("key").fill("open-sesame")
        playground.page.keyboard.press("Enter")
        loads = re.compile(r"^The server is not ready: .*\. Try again in ")
        expect(playground.part("status", 1)).to_have_text(loads)
        expect(playground.part("model")).to_have_text(re.compile(loads.pattern + r".*Asking again …$"))
        expect(playground.part("model")).to_contain_text("s1-nano", timeout=60_000)
        playground.part("run").click()
        playground.texts(1)
    playground.part("run").click()
    expect(playground.part("status", 1)).to_have_text("The server cannot be reached.")
    assert all("Failed to load resource" in text for text in playground.wrong)
    playground.wrong.clear()


def shared(one: str, other: str) -> int:
    """Characters with which both begin."""
    parts = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(parts, min(len(one), len(other)))


def decoded(server: RunningServer) -> float:
    """Tokens that it has written so far."""
    found = re.search(r'^s1_engine_decode_tokens_total{replica="0"} (\S+)$', server.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])
