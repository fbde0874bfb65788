"""The pages in a browser, as wide as a desk's and as a telephone's, on white and on dark."""

import pytest

from tests.serve.playground_page import CONTRAST
from tests.test_pages import HOSTILE, report, samples

WORD = "unbroken" * 60
PAGES = {"samples": samples, "report": report}


@pytest.fixture
def visit(browser):
    """Opens a page; in the end nothing may have gone wrong in it, and nothing may have been asked for."""
    contexts, wrong = [], []

    def visit(content, width=1280, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda asked: asked.url.startswith("data:") or wrong.append(asked.url))
        page.set_content(content.decode())
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_never_scrolls_sideways_and_can_be_read(visit, page, scheme):
    for width in (1280, 390):
        for text in (WORD, "some words " * 60):
            shown = visit(PAGES[page](text), width, scheme)
            assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            assert [said for contrast, said in shown.evaluate(CONTRAST) if contrast < 4.5] == []


def test_tables_share_one_width(visit):
    shown = visit(report("x"))
    widths = shown.evaluate("[...document.querySelectorAll('body > .scroll')].map((one) => one.clientWidth)")
    inside = shown.evaluate("[...document.querySelectorAll('body > .scroll > table')].map((one) => one.offsetWidth)")
    assert len(widths) == 8 and set(widths) == set(inside) == {widths[0]}


def test_a_dark_page_shows_the_dark_picture(visit):
    for scheme, picture in (("light", "eA=="), ("dark", "eQ==")):
        page = visit(report("x").replace(b"data:image/svg+xml;base64,", b"data:text/plain;base64,"), scheme=scheme)
        assert page.evaluate("document.querySelector('img').currentSrc").endswith(picture)


@pytest.mark.parametrize("page", PAGES)
def test_hostile_text_runs_nothing(visit, page):
    """What it would do is seen: a dialog, an error, a request."""
    for text in HOSTILE[:-1]:
        visit(PAGES[page](text))


def test_samples_are_filtered_by_condition_and_verdict(visit):
    page = visit(samples("budget  16"))
    sample = page.locator("details.sample")
    assert sample.is_visible()
    page.select_option("#verdict", "wrong")
    assert not sample.is_visible() and not page.locator("section").is_visible()
    page.select_option("#verdict", "right")
    page.select_option("#condition", "budget  16")
    assert sample.is_visible()
