r"""An answer's text as tokens: LaTeX, Unicode and plain text in one alphabet, markup and spacing left out.

Nothing is skipped silently: a character or command without a meaning is a token too, which the reader then refuses.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from curate.grading.words import COMMON, FUNCTIONS, FUSED, NUMBERS, PARTS, UNITS, listed

Kind = Literal["number", "name", "text", "command", "mark"]


@dataclass(frozen=True)
class Token:
    r"""One token: a number, a letter, a word (of prose or inside `\text`), a command without its backslash, or a mark
    such as `+`, `\\`, `{` or `\{`. `apart`: white space stands before it."""

    kind: Kind
    text: str
    apart: bool = False

    def __str__(self) -> str:
        return "\\" + self.text + " " if self.kind == "command" else self.text


_SCRIPTS = {"^": ("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n"), "_": ("₀₁₂₃₄₅₆₇₈₉₋₊", "0123456789-+")}
_SYMBOLS = {
    **dict.fromkeys("\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}", "-"),
    **dict.fromkeys("\N{DIVISION SIGN}\N{FRACTION SLASH}\N{DIVISION SLASH}", "/"),
    **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
    "\N{MULTIPLICATION SIGN}": r"\times ",
    "\N{MIDDLE DOT}": r"\cdot ",
    "\N{DOT OPERATOR}": r"\cdot ",
    "\N{INFINITY}": r"\infty ",
    "\N{SQUARE ROOT}": r"\sqrt ",
    "\N{CUBE ROOT}": r"\sqrt[3] ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
    "\N{NOT EQUAL TO}": r"\ne ",
    "\N{ALMOST EQUAL TO}": r"\approx ",
    "\N{IDENTICAL TO}": r"\equiv ",
    "\N{UNION}": r"\cup ",
    "\N{INTERSECTION}": r"\cap ",
    "\N{SET MINUS}": r"\setminus ",
    "\N{ELEMENT OF}": r"\in ",
    "\N{EMPTY SET}": r"\emptyset ",
    "\N{LATIN CAPITAL LETTER O WITH STROKE}": r"\emptyset ",
    "\N{DOUBLE-STRUCK CAPITAL R}": r"\mathbb{R}",
    "\N{DOUBLE-STRUCK CAPITAL Z}": r"\mathbb{Z}",
    "\N{DOUBLE-STRUCK CAPITAL N}": r"\mathbb{N}",
    "\N{DOUBLE-STRUCK CAPITAL Q}": r"\mathbb{Q}",
    "\N{DOUBLE-STRUCK CAPITAL C}": r"\mathbb{C}",
    "\N{PLUS-MINUS SIGN}": r"\pm ",
    "\N{MINUS-OR-PLUS SIGN}": r"\mp ",
    "\N{DEGREE SIGN}": r"^\circ ",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots ",
    "\N{LEFT FLOOR}": r"\lfloor ",
    "\N{RIGHT FLOOR}": r"\rfloor ",
    "\N{LEFT CEILING}": r"\lceil ",
    "\N{RIGHT CEILING}": r"\rceil ",
    "\N{MATHEMATICAL LEFT ANGLE BRACKET}": r"\langle ",
    "\N{MATHEMATICAL RIGHT ANGLE BRACKET}": r"\rangle ",
    "\N{PRIME}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{EURO SIGN}": r"\euro ",
    "\N{POUND SIGN}": r"\pounds ",
    "\N{CENT SIGN}": r"\text{ cents}",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "\N{IDEOGRAPHIC FULL STOP}": ".",
    "\N{CHECK MARK}": r"\checkmark ",
    "\N{HEAVY CHECK MARK}": r"\checkmark ",
    "\N{END OF PROOF}": r"\qed ",
}
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)(?: SYMBOL)?")


def _folded(char: str) -> str:
    if char.isascii():
        return char
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    greek = _GREEK.fullmatch(unicodedata.name(char, ""))
    if greek:
        name = {"LAMDA": "lambda"}.get(greek[2], greek[2].lower())
        return f"\\{name if greek[1] == 'SMALL' else name.capitalize()} "
    if unicodedata.category(char) == "Cf":  # marks that nobody sees
        return ""
    said = unicodedata.normalize("NFKC", char)
    return char if char.isdecimal() and not said.isascii() else said


def fold(text: str) -> str:
    """Unicode as LaTeX would say it. NFKC alone would make 2² into 22; digits of other scripts are left alone."""
    if text.isascii():
        return text
    text = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", text)
    for mark, (raised, plain) in _SCRIPTS.items():
        table = str.maketrans(raised, plain)
        text = re.sub(f"[{raised}]+", lambda run, t=table, m=mark: f"{m}{{{run[0].translate(t)}}}", text)  # type: ignore[misc]
    return "".join(map(_folded, text))


_TAGS = (
    (re.compile(r"<su([pb])>(.*?)</su\1>", re.IGNORECASE), lambda m: ("^" if m[1] in "pP" else "_") + f"{{{m[2]}}}"),
    (
        re.compile(r"<(b|i|u|em|strong|span|font|mark|code|p|answer)(?:\s[^<>]*)?>(.*?)</\1>|<br ?/?>", re.IGNORECASE),
        r" \2 ",
    ),
    (re.compile(r"(?<![\w*)}\]])\*\*(?=\S)([^*]+)(?<=\S)\*\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<![\w_])__(?=\S)([^_]+)(?<=\S)__(?![\w_])"), r"\1"),
    (re.compile(r'^\s*"([^"]+)"[.,]?\s*$'), r"\1"),
    (re.compile(r"^\s*(?P<m>[*_`]{1,3})(?=\S)([^*`]+)(?<=\S)(?P=m)([.,]?)\s*$"), r"\2\3"),
)
"""Markup of HTML and Markdown. `2**3` is a power: a mark that opens has no digit before it."""
_ENDINGS = re.compile(
    r"(?:\s|\\(?:blacksquare|square|qed|Box|checkmark|quad|qquad)(?![A-Za-z])|\N{BLACK SQUARE}|\N{WHITE SQUARE}|[,;:]"
    r"|(?<!\.)\.|\\[,;:! ])+$"
)


_ALIGNED = re.compile(
    r"\\begin\{((?:align|aligned|gather|gathered|equation|split|cases)\*?)\}(.*?)\\end\{\1\}", re.DOTALL
)


_QUANTIFIED = re.compile(
    r"[,\s]*(?:\\q?quad\s*)?(?:\\text\{\s*|\()?"
    r"(?:for (?:all|every|any)(?: real(?: numbers?)?)?|\\forall)\s*\}?\s*\$?[a-z]"
    r"(?:\s*\\in\s*(?:\\mathbb\s*\{?R\}?|\\R))?\s*[)}$]?\s*$"
)
"""`for all x` behind what holds for all reals."""


def plain(text: str) -> str:
    """Unicode folded, markup of documents and closing marks taken off."""
    text = fold(html.unescape(text).replace("\0", ""))
    for pattern, instead in _TAGS:
        text = pattern.sub(instead, text)
    if "for " in text or "\\forall" in text:
        text = _QUANTIFIED.sub("", text)
    if "\\begin" in text:  # lines below each other are clauses
        text = re.sub(_ALIGNED, lambda m: re.sub(r"\\\\(?:\[[^\]]*\])?\s*(?=\S)", ", ", m[2].replace("&", " ")), text)
    return _ENDINGS.sub("", text.strip())


ACCENTS = listed("vec hat bar tilde overline widehat widetilde dot ddot overrightarrow overleftarrow check")
_STYLES = listed(
    "mathbf boldsymbol bm mathit mathsf mathtt mathcal mathfrak mathscr mathnormal underline uline emph boxed "
    "fbox displaystyle textstyle scriptstyle scriptscriptstyle tiny small normalsize large Large LARGE "
    "huge Huge bf it rm sf left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr "
    "bigm limits nolimits mathop mathord mathstrut strut quad qquad enspace thinspace medspace thickspace "
    "negthinspace nobreak allowbreak null bfseries itshape ensuremath sideset"
)
"""Commands that change how something looks and nothing else; what they are applied to stays."""
_WITH_ARGUMENT = listed("hspace hspace* vspace phantom hphantom vphantom tag label color textcolor colorbox")
"""Commands that go together with their first argument."""
_TEXTS = listed("text textbf textit textrm textsf texttt textnormal textup mathrm operatorname operatorname* mbox hbox")
_SAME = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "dbinom": "binom",
    "tbinom": "binom",
    "leq": "le",
    "leqslant": "le",
    "leqq": "le",
    "geq": "ge",
    "geqslant": "ge",
    "geqq": "ge",
    "neq": "ne",
    "lt": "<",
    "gt": ">",
    "varnothing": "emptyset",
    "lbrace": "{",
    "rbrace": "}",
    "lbrack": "[",
    "rbrack": "]",
    "lparen": "(",
    "rparen": ")",
    "degree": "circ",
    "deg": "circ",
    "ldots": "dots",
    "cdots": "dots",
    "dotsc": "dots",
    "dotsb": "dots",
    "vdots": "dots",
    "ast": "cdot",
    "bullet": "cdot",
    "colon": ":",
    "mid": "|",
    "vert": "|",
    "lvert": "|",
    "rvert": "|",
    "Vert": "||",
    "lVert": "||",
    "rVert": "||",
    "backslash": "setminus",
    "smallsetminus": "setminus",
    "varphi": "phi",
    "varepsilon": "epsilon",
    "vartheta": "theta",
    "infin": "infty",
    "simeq": "approx",
    "doteq": "approx",
    "land": "wedge",
    "lor": "vee",
    "prime": "'",
    "overrightarrow": "vec",
    "R": "reals",
    "Reals": "reals",
}
_PATTERN = re.compile(
    r"""(?P<space>(?:\s|~|\\[,;:!\s>]|\\\\?(?=\s*$))+)
    |(?P<row>\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])|\\newline(?![A-Za-z]))
    |(?P<begin>\\(?:begin|end)\s*\{[A-Za-z]+\*?\}(?:\{[lcr|\s]*\})?)
    |\\(?P<command>[A-Za-z]+\*?)
    |(?P<escaped>\\[{}$%&_#|])
    |(?P<delimiter>\\[()\[\]])
    |(?P<number>[0-9]+(?:\.[0-9]+|\.(?![0-9.]))?|\.[0-9]+)
    |(?P<letters>[A-Za-z]+)
    |(?P<dots>\.\.\.+)
    |(?P<two><=|>=|!=|==|\*\*|->|=>)
    |(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_TWO = {"<=": "le", ">=": "ge", "!=": "ne"}


def tokens(text: str) -> list[Token]:
    """The tokens of an answer, after `plain`."""
    text = plain(text)
    if "\\times" in text and re.search(r"\\(?:vec|mathbf|boldsymbol|bm)(?![A-Za-z])", text):
        text = text.replace("\\times", "\\crossproduct")  # no product of numbers: it is not read
    if "\\begin" not in text:  # escaped once too often, as in a program's string
        text = re.sub(r"\\\\(?=[A-Za-z({\[])", r"\\", text)
    text = re.sub(r"\^\s*(?:\{\s*)?((?:\\prime(?![A-Za-z])\s*)+)\}?", lambda m: "'" * m[1].count("prime"), text)
    text = re.sub(r"(?<!\\)\$\$", "$", text)
    # A lone dollar sign before a number is a currency; two of them are where mathematics begins and ends.
    bare = [m.start() for m in re.finditer(r"(?<!\\)\$", text)]
    if len(bare) % 2 and re.match(r"\$\s*[\d.]", text[bare[0] :]):
        text = text[: bare[0]] + "\\$" + text[bare[0] + 1 :]
    found = _Lexer(text, prose="\\" not in text.replace("\\$", "")).run(in_text=False)
    while found and found[-1].kind == "mark" and found[-1].text in ".,;:":
        found.pop()
    return found


class _Lexer:
    def __init__(self, text: str, prose: bool) -> None:
        self.text, self.at, self.prose = text, 0, prose
        # Where mathematics is marked, what stands outside of the marks is prose.
        self.marked = bool(re.search(r"(?<!\\)\$[^$]*(?<!\\)\$|(?<!\\)\\[(\[]", text))
        self.inside = False
        self.found: list[Token] = []
        self.apart = False

    def add(self, kind: Kind, text: str) -> None:
        self.found.append(Token(kind, text, self.apart))
        self.apart = False

    def run(self, in_text: bool) -> list[Token]:
        while self.at < len(self.text):
            match = _PATTERN.match(self.text, self.at)
            assert match is not None and match.lastgroup is not None  # its last part takes any character
            self.at, kind, found = match.end(), match.lastgroup, match[match.lastgroup]
            if kind in ("space", "delimiter") or (kind == "mark" and found == "$"):
                # A thin space inside a number is no space: 12\,345 and 36,\!481.
                self.apart = self.apart or (r"\!" not in found and found != r"\,")
                self.inside = {"$": not self.inside, r"\(": True, r"\[": True}.get(
                    found, kind == "space" and self.inside
                )
            elif kind == "row":
                self.add("mark", "\\\\")
            elif kind == "begin":
                self.add("command", re.sub(r"[\\\s{}]|\{.*\}$", "", found.split("}")[0]))
            elif kind == "command":
                self._command(found)
            elif kind == "escaped":
                self.add("mark", {"\\$": "dollar", "\\%": "%", "\\|": "||"}.get(found, found))
            elif kind == "number":
                self.add("number", found)
            elif kind == "letters":
                self._letters(found, in_text)
            elif kind == "dots":
                self.add("command", "dots")
            elif kind == "two":
                if (
                    found == "!="
                    and self.found
                    and (self.found[-1].kind == "number" or self.found[-1].text in (")", "}"))
                ):
                    self.add("mark", "!")  # 5!=120
                    self.add("mark", "=")
                elif found in _TWO:
                    self.add("command", _TWO[found])
                else:
                    self.add("mark", {"**": "^", "==": "="}.get(found, found))
            else:
                self.add("mark", found)
        return self.found

    def _group(self) -> str | None:
        """What the next braces hold, or the next character or command; None at the end."""
        rest = re.compile(r"\s*").match(self.text, self.at)
        start = rest.end() if rest else self.at
        if start >= len(self.text):
            return None
        if self.text[start] != "{":
            one = _PATTERN.match(self.text, start)
            assert one is not None
            self.at = start + 1 if one.lastgroup in ("letters", "number") else one.end()
            return self.text[start : self.at]
        depth = 0
        for mark in re.compile(r"\\.|[{}]", re.DOTALL).finditer(self.text, start):
            depth += {"{": 1, "}": -1}.get(mark[0], 0)
            if depth == 0:
                self.at = mark.end()
                return self.text[start + 1 : mark.start()]
        return None

    def _command(self, name: str) -> None:
        if name in _STYLES:
            if name in ("left", "right") and self.text.startswith(".", self.at):
                self.at += 1  # a bracket that is not shown
            self.apart = self.apart or "quad" in name or "space" in name
        elif name in _WITH_ARGUMENT:
            self._group()
        elif name == "mathbb":
            letter = (self._group() or "").strip()
            self.add("command", {"R": "reals"}.get(letter, f"mathbb{letter}"))
        elif name in _TEXTS:
            self._text(name)
        elif name == "vec" and not re.match(r"\s*\{?\s*[A-Z]{2}", self.text[self.at : self.at + 20]):
            pass  # a letter with an arrow is that letter; from A to B is not from B to A
        else:
            same = _SAME.get(name, name)
            kind: Kind = "command" if same.isalpha() else "mark"
            self.add(kind, {"{": "\\{", "}": "\\}"}.get(same, same))

    def _text(self, command: str) -> None:
        content = self._group()
        if content is None:
            self.add("command", command)
            return
        inner = content.strip()
        self.apart = self.apart or content[:1].isspace()
        if command in ("mathrm", "operatorname", "operatorname*") and inner in ("e", "i", *FUNCTIONS):
            self.add("name" if len(inner) == 1 else "command", inner)
        elif command == "mathrm" and len(inner) == 1 and inner.isalpha() and inner in "dxyznkPC":
            self.add("name", inner)
        else:
            deeper = _Lexer(inner, prose=True)
            deeper.apart = self.apart
            self.found += deeper.run(in_text=True)
            self.apart = content[-1:].isspace()
            return

    def _is_unit(self, run: str) -> bool:
        """Whether one letter is a unit of speed, as in 5 m/s and 50 km/h; any other is a name."""
        behind = [t.text for t in self.found[-2:]]
        over = len(behind) == 2 and self.found[-2].kind == "text" and behind[1] == "/"
        squared = self.found[-1:] and self.found[-1].text.lower() in ("sq", "square", "cubic", "cu")
        squared = squared or (behind[-1:] == ["."] and behind[0].lower() in ("sq", "cu"))
        return (
            (bool(squared) and run == "m")
            or (over and run in "shmgl")
            or (run == "m" and self.apart and self.text.startswith("/s", self.at))
        )

    def _letters(self, run: str, in_text: bool) -> None:
        """A run of letters: a function or a constant in plain text, a word, or a product of names."""
        lower = run.lower()
        in_text = in_text or (self.marked and not self.inside and len(run) > 1)
        if run in ("min", "sec", "deg") and self.found and self.found[-1].kind == "number":
            self.add("text", run)  # minutes, seconds, degrees
        elif run == "sqrt" and (digits := re.compile(r"\s*([0-9.]+)").match(self.text, self.at)):
            self.add("command", run)  # not of the first digit only, as in LaTeX
            for part in ("{", digits[1], "}"):
                self.add("number" if part == digits[1] else "mark", part)
            self.at = digits.end()
        elif run in FUNCTIONS or run in ("pi", "infty", "sqrt", "theta", "mod"):
            self.add("command", run)
        elif lower in ("infinity", "inf") and not in_text:
            self.add("command", "infty")
        elif (
            (lower in NUMBERS or lower in PARTS)
            and self.found[-1:]
            and self.found[-1].text == "-"
            and self.found[-2:-1]
        ):
            self.add("text", run)  # twenty-one
        elif (in_text and not (len(run) == 1 and run in "xyzn")) or self._is_unit(run):
            self.add("text", run)
        elif len(run) == 1:
            self.add("name", run)
        else:
            before, after = self.found[-1:], self.text[self.at : self.at + 1] or " "
            stands_alone = self.apart or not before or before[0].text == "("
            counted = bool(before) and (before[0].kind == "number" or before[0].text in (")", "}", "^", "/"))
            counted = counted or (bool(before) and self.apart and before[0].text == "pi")
            counted = counted and (self.apart or (run.islower() and (after in "^/.,;) \\$")))  # 5km+2m is a sum
            if (
                run in ("and", "or", "not", "base")
                or (
                    lower in UNITS
                    and (counted or (self.prose and stands_alone))
                    and (lower not in FUSED or (self.prose and self.apart))
                )
                or (
                    (self.prose and stands_alone and (len(run) > 2 or lower in COMMON) and after not in "^_(")
                    or len(run) > 4
                )
                or (self.prose and len(run) > 2 and not re.search(r"[\d=+*/^_<>-]", self.text))
            ):
                self.add("text", run)
            else:
                for letter in run:
                    self.add("name", letter)
