r"""Where the answer is in a response: the last box, what follows the last "Answer:", GSM8K's `####`, the text itself.

Everything here is linear in the length of its input and looks at no more than `LONGEST_RESPONSE` characters of it.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from curate.grading.reader import Unread, read
from curate.grading.words import REFUSED, listed

LONGEST_RESPONSE = 100_000
"""Characters of a response that are searched, counted from its end."""
_LONGEST_LINE = 1_000
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
    """What `_last_box` finds, without its place."""
    return _last_box(text)[0]


def _last_box(text: str) -> tuple[str | None, int]:
    r"""(what the last balanced `\boxed{...}` or `\fbox{...}` holds and those that `and` or a comma joins to it, where
    the last one ends).

    Boxes that never close, or are empty, are passed over where another one is there ("" where all are empty).
    """
    end, empty, last = len(text), False, 0
    boxes: list[str] = []
    before = 0
    for box in reversed(list(_BOX.finditer(text))):
        depth = 0
        bare = None if box[1] else _BARE.match(text, box.end(), end)
        if bare:
            return bare[1], bare.end()
        # Bounded by the next box: nested boxes cannot make this quadratic, and the outer one is not wanted.
        for mark in _BRACE.finditer(text, box.end() - 1 if box[1] else end, end):
            depth += {"{": 1, "}": -1}.get(mark[0], 0)
            if depth == 0:
                held = text[box.end() : mark.start()].strip()
                if boxes and not (held and _AND.fullmatch(text, mark.end(), before)):
                    return ", ".join(boxes), last
                last = last if boxes else mark.end()
                boxes, empty, before = [held, *boxes] if held else boxes, True, box.start()
                break
        end = box.start()
    return (", ".join(boxes) if boxes else "" if empty else None), last


_BARE = re.compile(r" *(\d[\d.,]*\d|\d|[A-Za-z](?![A-Za-z]))")
_GAP = r"(?:\s|\$|\\[,;: ()]|\\q?quad)*"
_AND = re.compile(rf"{_GAP}(?:,|\\text\{{\s*,?\s*and\s*\}}|,?\s*and\b){_GAP}")


_MARK = re.compile(
    r"(?:(?<=[^A-Za-z])|^)"
    r"(?:(?:the|my|our)[^\S\n]+)?(?:(?:final|correct|right|numerical|exact|best)[^\S\n]+){0,3}"
    r"(?:answers?|(?:correct |right |best )(?:option|choice)|(?<=\n)(?:option|choice))[\"'*_`]*[^\S\n]*"
    r"(?:\([^()\n]{0,40}\)[^\S\n]*|(?:to|for)\b[^\n.:]{1,80}?(?=\bis\b))?"
    r"(?:,?[^\S\n]*(?:therefore|thus|then|hence|clearly|indeed),?[^\S\n]+)?"
    r"(?:(?:is|are|(?:would|should|must|will) be)\b[*_`]*[^\S\n]*"
    r"(?:(?:therefore|thus|clearly|indeed|simply)[^\S\n]+)?:?"
    r"(?![^\S\n]*(?:not|wrong|incorrect)\b)|[:=|\uff1a\u2192]|-[^\S\n])[*_`]*",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:wrong|incorrect|common|tempting|possible|initial|first|other|another|previous|obvious|think|thought|is|if)\s+"
    r"(?:the\s+|that\s+the\s+)?$|\b[Ii]f\b[^.\n]*$",
    re.IGNORECASE,
)
"""What stands before a mark that is not of this answer."""
_REJECTED = re.compile(r"\b(?:wrong|incorrect) answer|answer is (?:not|wrong)\b(?!.*\bbut\b)", re.IGNORECASE)
"""A last line that says what the answer is not."""
_HEADING = re.compile(r"^[#*_ \t]*(?:the[ \t]+)?(?:final[ \t]+)?answer[*_#:. \t]*$", re.IGNORECASE | re.MULTILINE)
_RETRACTED = re.compile(r"\b(?:wait|actually|hold on|correction|on second thought|hmm|re-?check)\b", re.IGNORECASE)
_DISPLAYS = (("$$", "$$"), ("\\[", "\\]"), ("\\begin{", "\\end{"))
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?", re.ASCII)
_SPAN = re.compile(
    r"(?<!\\)\$\$(.{1,2000}?)(?<!\\)\$\$|(?<!\\)\$(.{1,2000}?)(?<!\\)\$|\\\((.{1,2000}?)\\\)|(?<!\\)\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
_LONGEST_SPANS = 20_000
"""Characters, from the end of a response, that are searched for mathematics."""
_MOST_MARKS = 50
_SENTENCE = re.compile(r"(?<![ .][A-Za-z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z]{2})\.\s+(?=[A-Z\[])")
_REASON = re.compile(
    r"\s*[,.;(]?\s*\b(?:which|because|since|so that|for which|as (?:was|we|it|required|desired|shown)|I hope|see above"
    r"|(?<=\w )rather than|(?<=\w )instead of)\b.*$"
    r"|(?<=[\w$)}])\s*[,(]\s*(?:and )?not\b.*$|<\|?[a-z_/]+\|?>.*$",
    re.IGNORECASE | re.DOTALL,
)
Fits = Callable[[str], bool]


def extract(text: str, last_number: bool = False, last_math: bool = False, fits: Fits | None = None) -> Extracted:
    """The answer of a response.

    Args:
        text: a whole response, or a bare answer.
        last_number: for a longer text without any of the marks, take its last number (`last_number`).
        last_math: likewise its last piece of mathematics (`last_math`).
        fits: whether a text can be an answer; of several marks the last one counts behind which one stands.
    """
    text = text[-LONGEST_RESPONSE:].replace("\0", "").strip()
    fits = fits or bool
    box, end = _last_box(text)
    marked = _marked(text[end:] if box else text, fits)
    if box and not (marked and _RETRACTED.search(text[end:])):
        return Extracted(box, "boxed")
    if box is None and "\\boxed{" in text and not marked:
        return Extracted(None, "no_answer")  # cut inside the only box
    text = re.sub(r"\\(?:boxed|fbox) *\{\s*\}", "", text).strip() if box == "" else text
    if not text or marked == "":
        return Extracted(None, "no_answer")
    if marked is not None:
        return Extracted(marked, "answer_line")
    hashes = text.rfind("####")
    if hashes >= 0 and (found := text[hashes + 4 :].split("\n", 1)[0].strip()):
        return Extracted(found, "hashes")
    if "\n" not in text and len(text.split(" ")) <= MOST_WORDS:
        return Extracted(text, "whole")
    if _SPAN.fullmatch(text) or (text.startswith("\\begin{") and text.count("\\begin{") == 1):
        return Extracted(text, "whole")
    if _REJECTED.search(text.rsplit("\n", 1)[-1]):
        return Extracted(None, "no_answer")
    if last_number and (numbers := _NUMBER_IN_TEXT.findall(text)):
        return Extracted(numbers[-1], "last_number")
    if last_math and (found := _last_math(text)):
        return Extracted(found, "last_math")
    return Extracted(text, "whole") if "\n" not in text else Extracted(None, "no_answer")


def _last_math(text: str) -> str:
    """The last line, if it is mathematics and little else, or the last piece of mathematics."""
    line = _without_marks(text.rsplit("\n", 1)[-1])
    said = mathematics(line)
    if len(line) <= _LONGEST_LINE and _readable(said):
        return said
    if "$" not in line and "\\" not in line and (numbers := _NUMBER_IN_TEXT.findall(line)):
        return numbers[-1]
    spans = _SPAN.findall(text[-_LONGEST_SPANS:])
    return next(filter(None, spans[-1])).strip() if spans else ""


def _marked(text: str, fits: Fits) -> str | None:
    """What follows the last mark that something fitting follows, else the last that anything does; "" where nothing
    does, None without a mark."""
    tag = text.lower().rfind("<answer>")
    if tag >= 0:
        inside = text[tag + 8 :].split("</", 1)[0].strip()
        return _marked(inside, fits) or inside
    ends = [m.end() for m in _MARK.finditer(text) if not _OTHERS.search(text[max(0, m.start() - 80) : m.start()])]
    ends += [m.end() for m in _HEADING.finditer(text)]
    first: str | None = None
    for end in sorted(ends, reverse=True)[:_MOST_MARKS]:
        found = _following(text, end)
        if found and fits(found):
            taken_back = _RETRACTED.search(text, end)
            return None if taken_back and "answer" not in text[taken_back.end() :].lower() and first is None else found
        first = first or found
    return first


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
            end = text.find(closes, start + len(opens), start + 3_000)
            if end >= 0:
                shut = text.find("}", end) + 1 if opens == "\\begin{" else end + len(closes)
                return text[at:shut].strip()
    return _SENTENCE.split(_without_marks(line), maxsplit=1)[0].strip()


def _without_marks(line: str) -> str:
    """A line without marks of lists, quotes and emphasis."""
    line = re.sub(r"^[*\u2022]\s+|^[>#|]+\s*", "", line.strip())
    line = re.sub(r"\*\*([^*\n]+)\*\*", r"\1", line)
    line = re.sub(r"(?<=\w)(?:\*\*|`|__|_)(?=[.,;:!]*$)", "", line).lstrip("*_`")
    if line.endswith("}") and line.count("{") < line.count("}"):
        line = line.rstrip('}" ')
    line = line.strip("*`: \t|") if not line.startswith(("**", "`")) or line.count("`") % 2 else line
    while line and unicodedata.category(line[-1]) in ("So", "Sk", "Mn"):
        line = line[:-1].rstrip()
    return (
        line.removesuffix('"}').strip("\"' ")
        if line.startswith('"') or (line.endswith(("}", '"')) and "{" not in line)
        else line
    )


def mathematics(text: str) -> str:
    r"""The mathematics in an extracted answer: all of it if it can be read, else what a few words around it leave.

    >>> mathematics("The value is $12$, which is even."), mathematics("72 clips in all")
    ('12', '72 clips in all')
    """
    if _readable(text):
        return text
    shorter = _REASON.sub("", text)
    shorter = re.sub(r"^\\text\{[^{}]*(?:\b(?:is|are|equals)|:)\s*\}\s*", "", shorter)
    shorter = _LEADING.sub("", shorter)
    shorter = re.sub(r"^(?:approximately|about|roughly|exactly|just|\\approx|\u2248|=|~)\s*", "", shorter)
    for found in dict.fromkeys((shorter, *_after_words(shorter), *_spans(shorter))):
        if found and found != text and _readable(found):
            return found
    told = _TOLD.fullmatch(text)
    return told[1] if told and not _turned_around(text) else text


_LEADING = re.compile(r"^(?:(?:hence|thus|so|therefore|then|and|finally|we (?:get|have|find))\b,?\s*)+", re.IGNORECASE)
_TOLD = re.compile(
    r"[A-Za-z][A-Za-z ',]* (?:is|are|was|were|has|have|had|gets?|got|needs?|makes?|sold|costs?|totals|exactly|only) "
    r"(\$?-?[\d,]+(?:\.\d+)?)(?: [A-Za-z]+){0,4}\.?"
)


def readable(text: str) -> bool:
    """Whether a text, or the mathematics in it, can be read as an answer."""
    return _readable(mathematics(text))


def _readable(text: str) -> bool:
    if len(text) > _LONGEST_LINE:
        return False
    try:
        return read(text).op != "words"
    except (Unread, RecursionError):
        return False


def _turned_around(words: str) -> bool:
    """Whether words say of what they stand beside that it is not so, or another number."""
    found = re.findall(r"[a-z']+", words.lower())
    return any(w in _TURNING for w in found)


_TURNING = (
    REFUSED | listed("never hardly nearly nowhere close almost unlikely square cube log sum digits multiple")
) - (listed("is are was be for with from to where when if exactly only by point"))
_SAYS = re.compile(
    r"^[A-Za-z][^=<>]*?\b(?:is|are|equals|be|gives|get|obtain)\b:?\s+(?=\S)|^[A-Za-z][A-Za-z ,']*:\s*(?=\S)"
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
    if _turned_around(before) or _turned_around(after) or re.search(r"\d", before + after):
        return []
    inside = next(filter(None, spans[0].groups()))
    return [f"{inside}\\text{{ {after}}}"] if after and len(after.split()) <= 3 else [inside]
