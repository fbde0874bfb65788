"""The playground's page in a browser, as a test sees and uses it."""

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Request, expect

CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(rgb[i] / 255), 0.05);
  const ground = (e) => {
    const color = numbers(getComputedStyle(e).backgroundColor);
    return color[3] === 0 ? ground(e.parentElement) : color;
  };
  const says = (e) => [...e.childNodes].some((node) => node instanceof Text && node.data.trim());
  const shown = (e) => e.checkVisibility() && !e.matches(":disabled, :disabled *");
  return [...document.querySelectorAll("body *")].filter((e) => says(e) && shown(e)).map((e) => {
    const both = [light(numbers(getComputedStyle(e).color)), light(ground(e))];
    return [Math.max(...both) / Math.min(...both), e.outerHTML.slice(0, 80)];
  });
}"""
RING = """() => {
  const at = document.activeElement;
  return getComputedStyle(at.type === "radio" ? at.nextSibling : at).outlineStyle;
}"""
"""How the focus is drawn; a radio button is under its label."""


class Playground:
    """The page in a window of its own, and what happens in it that should not."""

    def __init__(self, browser: Browser, url: str, fragment: str, window: dict[str, Any]) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 760}, **window})
        self.page = self.context.new_page()
        self.url = url
        self.wrong: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.goto(f"{url}/#{fragment}")

    def part(self, name: str, column: int | None = None) -> Locator:
        """What is so named, on the page or in a column."""
        return (self.page if column is None else self.part(f"column-{column}")).get_by_test_id(name)

    def texts(self, columns: int) -> list[str]:
        """What was thought in each column, once all are done."""
        for column in range(1, columns + 1):
            expect(self.part(f"column-{column}")).to_have_attribute("data-state", "done", timeout=60_000)
        events = [column["events"] for column in self.run()["columns"]]
        return ["".join(e["text"] for e in each if e["kind"] == "reasoning").lstrip() for each in events]

    def run(self) -> Any:
        """The JSON of the run."""
        return json.loads(self.exported("json"))

    def exported(self, kind: str) -> str:
        """What an export shows; downloaded, it is the same."""
        self.part(f"export-{kind}").click()
        shown = self.part("export-text").text_content() or ""
        with self.page.expect_download() as download:
            self.part("download").click()
        assert Path(download.value.path()).read_text(encoding="utf-8") == shown
        self.page.keyboard.press("Escape")
        return shown

    def reach(self, name: str) -> Locator:
        """Go there with the Tab key, and see that the page shows where one is."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.dataset.testid") == name:
                assert self.page.evaluate(RING) == "solid"
                return self.part(name)
        raise AssertionError(f"{name} cannot be reached with the keyboard")

    def requests(self) -> list[Any]:
        """The bodies that the columns sent."""
        return [column["request"] for column in self.run()["columns"]]

    def color(self, selector: str, name: str = "color") -> str:
        """A colour as it is drawn."""
        return self.page.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name)

    def pale(self) -> list[str]:
        """Texts that stand out too little from what is under them: by WCAG, contrast below 4.5."""
        return [text for contrast, text in self.page.evaluate(CONTRAST) if contrast < 4.5]

    def fits(self) -> bool:
        """Nothing is to be scrolled sideways to."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/")):
            self.wrong.append(request.url)
