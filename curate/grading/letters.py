r"""Which option a response chooses: one reader of letters, for evaluation and curation.

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
"""Characters of a prompt, counted from its end, that are searched for options; of a response, for a lone letter."""
_LONGEST = 1_000
"""Characters of what may be a choice."""

_STARTS = re.compile(rf"^[ \t]*(?:[-*\u2022] +)?[(\[]?([{LETTERS}{LETTERS.lower()}])[)\].:](?=\S|\s)", re.MULTILINE)
_INLINE = re.compile(rf"(?:^|(?<=\s))(?:\(([{LETTERS}])\)|([{LETTERS}])[).:](?=\s))")


_EMPHASIS = re.compile(r"\*\*|\\(?:text|textbf|mathrm|mathbf)\{(?=\(?[A-J]\)?\})|(?<=[A-J]\))\}")


def options(prompt: str) -> dict[str, str]:
    """Letter to text of the last list of options in a prompt: "(A) ...", "A) ...", "**A.** ...", a line each, or all in
    one line."""
    prompt = re.sub(
        r"\*\*|\\(?:text|textbf|mathrm|mathbf)\{(?=\(?[A-J]\)?\})|(?<=[A-J]\))\}", "", prompt[-LONGEST_OPTIONS:]
    )
    prompt = re.sub(r"\\q?quad(?![A-Za-z])|\$(?=\([A-J]\))", "\n", prompt)
    found = _listed(prompt, list(_STARTS.finditer(prompt)))
    return found if len(found) > 1 else _listed(prompt, list(_INLINE.finditer(prompt)))


def _listed(prompt: str, marks: "list[re.Match[str]]") -> dict[str, str]:
    found: dict[str, str] = {}
    for i, mark in enumerate(marks):
        letter = next(filter(None, mark.groups())).upper()
        if letter == LETTERS[0]:
            found = {}
        if letter == LETTERS[len(found) : len(found) + 1]:
            end = next((m.start() for m in marks[i + 1 :] if m.start() > mark.end()), len(prompt))
            found[letter] = prompt[mark.end() : end].strip()
    return found


_L = f"[{LETTERS}{LETTERS.lower()}]"
_WHAT = r"(?:option|choice|answer|letter)"
_ALONE = re.compile(
    rf"(?:(?:the )?(?:correct |right |best )?{_WHAT}s?(?: is)?:?\s*)?[(\[]?\s*({_L})\s*[)\]]?[.:,;!]*", re.IGNORECASE
)
_LED = re.compile(
    rf"(?:(?:option|choice) )?(?:\(({_L})\)"
    rf"|([{LETTERS}])(?:[).:,;\u2014](?=\s|$)|(?=\s)|\s+[-\u2013\u2014]\s)|([a-j])\))"
    r"\s*(.*)",
    re.DOTALL,
)
_MARKED = re.compile(rf"\(?[{LETTERS}][).:]")
_REASON = re.compile(
    r"\b(?:because|since|(?<!well )as(?! well)|so|while|whereas|where|which|(?<!along )with|for|given|by)\b",
    re.IGNORECASE,
)
_RULED_OUT = re.compile(
    r"[)\"'*]{0,2}\s*(?:,?\s*(?:and|or|,)\s*\(?[A-J]\)?\s*)?"
    r"(?:(?:is|are|was|were|would be|can|could|seems?|looks?)\b\s*)?(?:also\s+|clearly\s+|both\s+)?"
    r"(?:not\b|n't|isn't|aren't|cannot|can't|wrong|incorrect|false|ruled out|eliminated|impossible|excluded"
    r"|fail(?:s|ed)?\b|do(?:es)? not|do(?:es)?n't"
    r"|what I ruled out|out\b)"
)
_EXCLUDES = re.compile(
    r"(?:\bnot|n't|\bruled? out|\brules out|\beliminat\w+|\bexclud\w+|\bexcept|\bthan|\binstead of|\bunlike|\bversus"
    rf"|\bneither|\bnor)\s+(?:be\s+)?(?:the\s+)?(?:{_WHAT}s?\s+)?\(?$",
    re.IGNORECASE,
)
_NAMES = re.compile(
    r"\b(?:vitamin|point|plan|line|angle|triangle|hepatitis|type|grade|group|set|matrix|event|vertex|degrees?|section|from|between"
    r"|figure|part|case|step|player|person|class|of)\s+$|[\u00b0^/=+\u222a\u2229\u00ac]\s*$|\\[a-z]+\s*$",
    re.IGNORECASE,
)
"""What a letter behind it is the name or the unit of."""
_LONE = re.compile(
    rf"\(({_L})\)"
    r"|(?<![\w'])(?![AI]\s+(?!(?:is|because|since|was|and|or|nor|as|to|fails?)\b)[a-z])"
    rf"([{LETTERS}])(?![\w'])(?!\s*[=+^\u00b0/\\?]|')"
    r"|(?<![\w'(])(?:([b-hj])(?=\)|[.!]?\s*$)|(?-i:a)(?=\)))"
)
_JOINED = re.compile(
    r"\s*\)?\s*(?:,\s*(?:and|or|nor)?|[/&;+|]|\band\b|\bor\b|\bnor\b|\bto\b|\bas well as\b)"
    r"\s*(?:option |choice )?\(?\s*",
    re.IGNORECASE,
)


def _prose(text: str) -> str:
    """Without the commands and marks that only change how a letter looks."""
    text = re.sub(r"\\([{}()\[\]])|__", "", text.replace("\\&", "&"))
    text = re.sub(r"\\(?:textcolor|color|colorbox)\s*\{[^{}]*\}|<\|?/?[a-z_]+\|?>", "", text)
    text = re.sub(
        r"\\(?!circ|cup|cap|neg|lnot)[A-Za-z]+ ?|\\ ", lambda m: " " if m[0] == "\\ " or "quad" in m[0] else "", text
    )
    return re.sub(r"[{}$*`\"\u201c\u201d]|''|(?<!\w)_|_(?!\w)", "", text).strip("' \n\t")


def _spelled(text: str) -> str:
    return spelling(text).lower()


def _bare(text: str) -> str:
    return _spelled(text.strip("=:() "))


def letter_of(text: str, shown: Mapping[str, str], told: bool = True) -> tuple[str | None, str]:
    """(letter, rule) that an extracted answer names: alone, before the option's text, or by exactly that text; where it
    is told to be the answer, also as the only letter that is not ruled out there.

    The rule is `choice`, `option_text` or, with letter None, `two_letters`, `no_option` (beyond the options) or
    `no_answer`.
    """
    if len(text) > _LONGEST:
        return None, "no_answer"
    plain = _prose(text)
    led = _LED.match(plain)
    if led and (letter := _letter(led)) in shown and _bare(led[4]) == _bare(_prose(shown[letter])):
        return letter, "choice"  # whatever its text says, as "(D) Cannot be determined"
    given, rule = _named(plain, told)
    if given is None and rule == "no_answer" and shown:
        written = _spelled(text)
        same = [letter for letter, option in shown.items() if _spelled(option) == written]
        if len(same) == 1:
            return same[0], "option_text"
    if given is not None and shown and given not in shown:
        return None, "no_option"
    return given, rule


def _letter(match: "re.Match[str]") -> str:
    return (match[1] or match[2] or match[3]).upper()


def _named(plain: str, told: bool) -> tuple[str | None, str]:
    """The one letter of a text that is a choice: what leads it, or, if `told`, the only one that is not ruled out."""
    alone = _ALONE.fullmatch(plain)
    if alone:
        return alone[1].upper(), "choice"
    found = {_letter(m) for m in _all(plain)}
    led = _LED.match(plain)
    if (
        led
        and re.match(r"[).:]", plain[_end_of_letter(led) :])
        and not re.match(r"(?:is|are|was|can't|cannot|isn't|no)\b", led[4])
    ):
        head = _REASON.split(led[4], maxsplit=1)[0]
        others = {_letter(m) for m in _all(head)} - {_letter(led)}
        return (None, "two_letters") if others else (_letter(led), "choice")
    if not told and (not led or not re.match(r"[,;]|\s+(?:because|since)\b", plain[_end_of_letter(led) :])):
        return None, "no_answer"
    if led and _letter(led) in found:
        head = _REASON.split(plain, maxsplit=1)[0]
        found = {_letter(m) for m in _all(head)} or found
        if re.search(r"\b(?:but|however|wait)\b", head):
            return _letter(_all(plain)[-1]), "choice"
    if len(found) > 1:
        return None, "two_letters"
    return (found.pop(), "choice") if found else (None, "no_answer")


def _end_of_letter(led: "re.Match[str]") -> int:
    return max(led.end(i) for i in (1, 2, 3))


def _all(plain: str) -> "list[re.Match[str]]":
    """The lone letters that nothing around them rules out, and that are no names of something else."""
    found: list[re.Match[str]] = []
    out: re.Match[str] | None = None
    for m in _LONE.finditer(plain):
        before = plain[max(0, m.start() - 40) : m.start()]
        with_last = out is not None and _JOINED.fullmatch(plain, out.end(), m.start()) is not None
        if with_last or _RULED_OUT.match(plain, m.end()) or _EXCLUDES.search(before):
            last = out = m
            while found and _JOINED.fullmatch(plain, found[-1].end(), last.start()):  # A, B and C are wrong
                last = found.pop()
        elif not _NAMES.search(before):
            found.append(m)
    return found


def choose(response: str, shown: Mapping[str, str], strict: bool = False) -> tuple[Extracted, str]:
    """(the letter and where it was found, how it was told). `shown`: the options; empty: not known.

    The letter is None where there is no choice, and the second value then says why: `two_letters`, `no_option` or
    `no_answer`.
    """
    found = extract(response, fits=lambda text: letter_of(text, shown)[1] != "no_answer")
    committed = found.rule in ("boxed", "answer_line", "hashes")
    letter, rule = (None, "no_answer") if found.text is None else letter_of(found.text, shown, committed)
    if letter is not None or rule != "no_answer" or strict or committed:
        return Extracted(letter, found.rule), rule
    plain = _prose(response[-LONGEST_OPTIONS:])
    lines = [line for line in plain.split("\n") if line.strip()]
    if len(options(plain)) > 2:  # the options said again choose none of them
        lines = [line for line in lines if not _STARTS.match(line)]
    for line in (lines[-1:], lines[:1]):
        letter, rule = letter_of(line[0], shown) if line else (None, "")
        if letter is not None and (rule == "option_text" or _ALONE.fullmatch(line[0]) or _MARKED.match(line[0])):
            return Extracted(letter, "last_letter"), rule
    letters = _all(lines[-1] if lines else "") or _all("\n".join(lines))
    if not letters:
        return Extracted(None, found.rule), "no_answer"
    if len(letters) > 1 and _joined(letters[-2:]):
        return Extracted(None, found.rule), "two_letters"
    last = _letter(letters[-1])
    if shown and last not in shown:
        return Extracted(None, found.rule), "no_option"
    return Extracted(last, "last_letter"), "choice"


def _joined(pair: "list[re.Match[str]]") -> bool:
    """Whether two letters are named as one answer: "B, C", "B and C"."""
    first, second = pair
    between = first.string[first.end() : second.start()]
    return _letter(first) != _letter(second) and _JOINED.fullmatch(between) is not None
