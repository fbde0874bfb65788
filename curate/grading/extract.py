r"""Where the answer is in a response: the last box, what follows the last "Answer:", GSM8K's `####`, the text itself.

Everything here is linear in the length of its input and looks at no more than `LONGEST_RESPONSE` characters of it.
"""

import re
from dataclasses import dataclass

from curate.grading.reader import Unread, read
from curate.grading.words import REFUSED

LONGEST_RESPONSE = 100_000
"""Characters of a response that are searched, counted from its end."""
MOST_WORDS = 6
"""Words of a line that is taken for a bare answer rather than for prose."""


@dataclass(frozen=True)
class Extracted:
    """An answer found in a response (None: there is none) and the rule that found it."""

    text: str | None
    rule: str


_BOX = re.compile(r"\\(?:boxed|fbox)( *\{)?")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    r"""What the last balanced `\boxed{...}` or `\fbox{...}` holds, and those that `and` or a comma joins to it.

    Boxes that never close, or are empty, are passed over where another one is there ("" where all are empty).
    """
    end, empty = len(text), False
    listed: list[str] = []
    before = 0
    for box in reversed(list(_BOX.finditer(text))):
        depth = 0
        # Bounded by the next box: nested boxes cannot make this quadratic, and the outer one is not wanted.
        for mark in _BRACE.finditer(text, box.end() - 1 if box[1] else end, end):
            depth += {"{": 1, "}": -1}.get(mark[0], 0)
            if depth == 0:
                held = text[box.end() : mark.start()].strip()
                if listed and not (held and _AND.fullmatch(text, mark.end(), before)):
                    return ", ".join(listed)
                listed, empty, before = [held, *listed] if held else listed, True, box.start()
                break
        end = box.start()
    return ", ".join(listed) if listed else "" if empty else None


_GAP = r"(?:\s|\$|\\[,;: ()]|\\q?quad)*"
_AND = re.compile(rf"{_GAP}(?:,|\\text\{{\s*,?\s*and\s*\}}|,?\s*and\b){_GAP}")


_MARK = re.compile(
    r"(?:^|(?<=[\s*_#.;!,:>(]))"
    r"(?:(?:the|my|our|a)[^\S\n]+)?(?:(?:final|correct|right|numerical|exact)[^\S\n]+)*"
    r"(?:answers?|correct (?:option|choice))[*_`]*[^\S\n]*(?:\([^()\n]{0,40}\)[^\S\n]*)?"
    r"(?:(?:is|are)\b[*_`]*[^\S\n]*:?(?![^\S\n]*(?:not|wrong|incorrect)\b)|[:=])[*_`]*",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^[#*_\s]*(?:the[^\S\n]+)?(?:final[^\S\n]+)?answer[*_#:.\s]*$", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_DISPLAYS = (("$$", "$$"), ("\\[", "\\]"), ("\\begin{", "\\end{"))
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?", re.ASCII)
_SPAN = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|(?<!\\)\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE = re.compile(r"(?<![ .][A-Za-z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z]{2})\.\s+(?=[A-Z\[])")
_REASON = re.compile(
    r"\s*[,.;(]?\s*\b(?:which|because|since|so that|for which|as (?:was|we|it|required|desired|shown)|I hope)\b.*$"
    r"|<\|?[a-z_]+\|?>.*$",
    re.IGNORECASE | re.DOTALL,
)


def extract(text: str, last_number: bool = False, last_math: bool = False) -> Extracted:
    """The answer of a response.

    Args:
        text: a whole response, or a bare answer.
        last_number: for a longer text without any of the marks, take its last number (`last_number`).
        last_math: likewise its last piece of mathematics (`last_math`).
    """
    text = text[-LONGEST_RESPONSE:].replace("\0", "").strip()
    if not text:
        return Extracted(None, "no_answer")
    box = last_box(text)
    if box is not None:
        return Extracted(box, "boxed") if box else Extracted(None, "no_answer")
    marked = _marked(text)
    if marked is not None:
        return Extracted(marked, "answer_line") if marked else Extracted(None, "no_answer")
    hashes = text.rfind("#### ")
    if hashes >= 0:
        return Extracted(text[hashes + 5 :].split("\n", 1)[0].strip(), "hashes")
    if "\n" not in text and len(text.split(" ")) <= MOST_WORDS:
        return Extracted(text, "whole")
    only = _SPAN.fullmatch(text)
    if only or (text.startswith("\\begin{") and text.count("\\begin{") == 1):
        return Extracted(text, "whole")
    if last_number and (found := _NUMBER_IN_TEXT.findall(text)):
        return Extracted(found[-1], "last_number")
    if last_math and (spans := _SPAN.findall(text)):
        return Extracted(next(filter(None, spans[-1])).strip(), "last_math")
    return Extracted(text, "whole") if "\n" not in text else Extracted(None, "no_answer")


def _marked(text: str) -> str | None:
    """What follows the last mark that something follows; "" where nothing does, None without a mark."""
    ends = [m.end() for m in _MARK.finditer(text)] + [m.end() for m in _HEADING.finditer(text)]
    tags = list(_TAG.finditer(text))
    found: str | None = None
    for end in sorted(ends, reverse=True)[:50]:
        found = _following(text, end)
        if found:
            break
    if tags and tags[-1].end() >= max(ends, default=0):
        inside = tags[-1][1].strip()
        return _marked(inside) or inside
    if found is None and tags:
        return tags[-1][1].strip()
    return found


def _following(text: str, at: int) -> str:
    """The rest of the line, or the next one with anything on it, to the end of a display that begins there."""
    while True:
        stop = text.find("\n", at)
        stop = len(text) if stop < 0 else stop
        line = text[at:stop].strip()
        if line.strip("*_#`:$ \t") or stop == len(text) or line.startswith("$$"):
            break
        at = stop + 1
    for opens, closes in _DISPLAYS:
        start = text.find(opens, at, stop)
        if start >= 0 and text.find(closes, start + len(opens), stop) < 0:
            end = text.find(closes, start + len(opens))
            if end >= 0:
                line = text[at : text.find("}", end) + 1 if opens == "\\begin{" else end + len(closes)].strip()
    line = re.sub(r"</answer>.*", "", line, flags=re.DOTALL | re.IGNORECASE)
    line = re.sub(r"^[*_`:\s]+(?=\S)|(?<=\S)[*`\s]+$", "", line)
    return _SENTENCE.split(line, maxsplit=1)[0].strip()


def mathematics(text: str) -> str:
    r"""The mathematics in an extracted answer: all of it if it can be read, else what a few words around it leave.

    >>> mathematics("The value is $12$, which is even."), mathematics("72 clips in all")
    ('12', '72 clips in all')
    """
    if _readable(text):
        return text
    shorter = _REASON.sub("", text)
    for found in dict.fromkeys((shorter, *_after_words(shorter), *_spans(shorter))):
        if found != text and _readable(found):
            return found
    only = _NUMBER_IN_TEXT.findall(text)
    prose = text.isascii() and len(text.split(" ")) <= MOST_WORDS and not re.search(r"[\\^_=+*()!]", text)
    if prose and len(only) == 1 and not _turned_around(text):
        return only[0]
    return text


def _readable(text: str) -> bool:
    try:
        return read(text).op != "words"
    except (Unread, RecursionError):
        return False


def _turned_around(words: str) -> bool:
    """Whether words say of what they stand beside that it is not so."""
    found = re.findall(r"[a-z']+", words.lower())
    return any(
        w in REFUSED - {"is", "are", "was", "be", "for", "with", "from", "to", "where", "when", "if"} for w in found
    )


_SAYS = re.compile(
    r"^[A-Za-z][^=<>]*?\b(?:is|are|equals|be|gives|get|obtain|value of)\b:?\s+(?=\S)|^[A-Za-z][A-Za-z ,']*:\s*(?=\S)"
)


def _after_words(text: str) -> list[str]:
    """What stands behind the last "is", "equals" or colon of a sentence."""
    found = []
    rest = text
    while match := _SAYS.match(rest):
        if _turned_around(match[0]):
            return []
        rest = rest[match.end() :]
        found.append(rest)
        if len(found) > 9:
            break
    return found[::-1]


def _spans(text: str) -> list[str]:
    """The only piece of mathematics between prose, with a unit behind it where there is one."""
    spans = list(_SPAN.finditer(text))
    if len(spans) != 1:
        return []
    before, after = text[: spans[0].start()], text[spans[0].end() :].strip().rstrip(".")
    if _turned_around(before) or re.search(r"\d", before + after):
        return []
    inside = next(filter(None, spans[0].groups()))
    return [f"{inside}\\text{{ {after}}}"] if after and len(after.split()) <= 3 else [inside]
