"""Which option a response chooses: one reader of letters, for evaluation and curation.

It reads what is asked for (a box, "Answer: C", a letter alone or before the option's text, the option's text itself)
and, unless it is strict, the last letter of a longer text that is not ruled out there. Two letters are no choice, and a
letter beyond the options is none of them.
"""

import re
from collections.abc import Mapping

from curate.grading.compare import spelling
from curate.grading.extract import Extracted, extract

LETTERS = "ABCDEFGHIJ"
LONGEST_OPTIONS = 20_000
"""Characters of a prompt, counted from its end, that are searched for options."""
_LONGEST_WHOLE = 1_000

_OPTION = re.compile(rf"(?:^|(?<=\s))(?:\(([{LETTERS}])\)|([{LETTERS}])[).:](?=\s)|(?<=\n)([{LETTERS}])[).])")


def options(prompt: str) -> dict[str, str]:
    """Letter to text of the last list of options in a prompt: "(A) ...", "A) ..." or "A. ..."."""
    prompt = prompt[-LONGEST_OPTIONS:]
    marks = list(_OPTION.finditer(prompt))
    found: dict[str, str] = {}
    for i, mark in enumerate(marks):
        letter = mark[1] or mark[2] or mark[3]
        if letter == LETTERS[0]:
            found = {}
        if letter == LETTERS[len(found) : len(found) + 1]:
            end = marks[i + 1].start() if i + 1 < len(marks) else len(prompt)
            found[letter] = prompt[mark.end() : end].strip()
    return found


_L = f"[{LETTERS}{LETTERS.lower()}]"
_WHAT = r"(?:option|choice|answer|letter)"
_ALONE = re.compile(
    rf"(?:(?:the )?(?:correct |right |best )?{_WHAT}s?(?: is)?:?\s*)?[(\[]?\s*({_L})\s*[)\]]?[.:,;!]*", re.IGNORECASE
)
_LED = re.compile(
    rf"(?:option |choice )?(?:\(({_L})\)"
    rf"|([{LETTERS}])(?:[).:,;](?=\s|$)|(?=\s+(?:because|since|as|is|for)\b)|\s+[-\u2013\u2014]\s)"
    r"|([a-j])\))\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_RULED_OUT = re.compile(
    r"\W{0,2}\s*(?:,?\s*(?:and|or|,)\s*\(?[A-J]\)?\s*)?"
    r"(?:(?:is|are|was|were|would be|can|could|seems?|looks?)\b\s*)?(?:also\s+|clearly\s+|both\s+)?"
    r"(?:not\b|n't|isn't|aren't|cannot|can't|wrong|incorrect|false|ruled out|eliminated|impossible|excluded"
    r"|what I ruled out|out\b)",
    re.IGNORECASE,
)
_EXCLUDES = re.compile(
    r"(?:\bnot|n't|\bruled? out|\brules out|\beliminat\w+|\bexclud\w+|\bexcept|\bthan|\binstead of|\bunlike|\bversus)"
    rf"\s+(?:be\s+)?(?:the\s+)?(?:{_WHAT}s?\s+)?\(?$",
    re.IGNORECASE,
)
_LONE = re.compile(
    rf"\(({_L})\)|(?<![\w'])(?:(?![AI]\s+(?!is\b|because\b|since\b|was\b)[a-z])([{LETTERS}]))(?![\w'])|(?<![\w'(])([a-j])(?=\)|[.!]?\s*$)"
)
_JOINED = re.compile(r"\s*\)?\s*(?:,\s*(?:and|or)?|/|&|\band\b|\bor\b)\s*(?:option |choice )?\(?\s*", re.IGNORECASE)


def _prose(text: str) -> str:
    """Without the commands and marks that only change how a letter looks."""
    text = re.sub(
        r"\\(?:text|mathrm|mathbf|textbf|mathit|boldsymbol|boxed|fbox|bm|textit|mathsf|left|right)(?![A-Za-z])",
        "",
        text,
    )
    return re.sub(r"[{}$*`\\]|(?<!\w)_|_(?!\w)", "", text).strip()


def _spelled(text: str) -> str:
    return spelling(text).lower()


def letter_of(text: str, shown: Mapping[str, str]) -> tuple[str | None, str]:
    """(letter, rule) that an extracted answer names: alone, before the option's text, or by exactly that text.

    The rule is `choice`, `option_text` or, with letter None, `two_letters`, `no_option` (beyond the options) or
    `no_answer`.
    """
    plain = _prose(text)
    given, rule = _named(plain)
    led = _LED.match(plain)
    if (
        led
        and (letter := (led[1] or led[2] or led[3]).upper()) in shown
        and _spelled(led[4]) == _spelled(_prose(shown[letter]))
    ):
        given, rule = letter, "choice"  # whatever its text says, as "(D) Cannot be determined"
    if given is None and rule == "no_answer" and shown:
        written = _spelled(text)
        same = [letter for letter, option in shown.items() if _spelled(option) == written]
        if len(same) == 1:
            return same[0], "option_text"
    if given is not None and shown and given not in shown:
        return None, "no_option"
    return given, rule


def _named(plain: str) -> tuple[str | None, str]:
    alone = _ALONE.fullmatch(plain)
    if alone:
        return alone[1].upper(), "choice"
    led = _LED.match(plain)
    if led is None or _RULED_OUT.match(plain, led.start(4) - 1 if led.start(4) else 0):
        found = _all(plain)
        return (None, "two_letters") if len(found) > 1 and _are_joined(plain) else (None, "no_answer")
    if _JOINED.match(plain, _letter_end(led)) and _are_joined(plain):
        return None, "two_letters"
    return (led[1] or led[2] or led[3]).upper(), "choice"


def _letter_end(led: "re.Match[str]") -> int:
    return max(led.end(i) for i in (1, 2, 3))


def _all(plain: str) -> "list[re.Match[str]]":
    """The lone letters that nothing around them rules out."""
    return [
        m
        for m in _LONE.finditer(plain)
        if not _RULED_OUT.match(plain, m.end()) and not _EXCLUDES.search(plain[max(0, m.start() - 40) : m.start()])
    ]


def _are_joined(plain: str) -> bool:
    """Whether the last two letters are named as one answer: "B, C", "B and C"."""
    found = _all(plain)
    if len(found) < 2:
        return False
    first, second = found[-2:]
    letters = {(m[1] or m[2] or m[3]).upper() for m in (first, second)}
    return len(letters) == 2 and _JOINED.fullmatch(plain[first.end() : second.start()]) is not None


def choose(response: str, shown: Mapping[str, str], strict: bool = False) -> tuple[Extracted, str]:
    """(the letter and where it was found, how it was told). `shown`: the options; empty: not known.

    The letter is None where there is no choice, and the second value then says why: `two_letters`, `no_option` or
    `no_answer`.
    """
    found = extract(response)
    if found.text is None:
        return Extracted(None, found.rule), "no_answer"
    short = found.rule != "whole" or len(found.text) <= _LONGEST_WHOLE
    letter, rule = letter_of(found.text, shown) if short else (None, "no_answer")
    if letter is not None or rule != "no_answer" or strict:
        return Extracted(letter, found.rule), rule
    plain = _prose(found.text if found.rule != "no_answer" else response)
    letters = _all(plain)
    if not letters:
        return Extracted(None, found.rule), "no_answer"
    if _are_joined(plain):
        return Extracted(None, found.rule), "two_letters"
    last = (letters[-1][1] or letters[-1][2] or letters[-1][3]).upper()
    if shown and last not in shown:
        return Extracted(None, found.rule), "no_option"
    return Extracted(last, "last_letter"), "choice"
