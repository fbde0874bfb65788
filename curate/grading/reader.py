r"""An answer read to its end, or not at all: recursive descent over its tokens.

What is left over, unbalanced or without a meaning raises `Unread`; nothing is ever taken for a part of itself.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from curate.grading.node import Node, number
from curate.grading.tokens import ACCENTS, Token, tokens
from curate.grading.words import BASES, FUNCTIONS, INVERTED, KINDS, NUMBERS, PARTS, SCALES, listed, unit

DEEPEST = 40
"""Brackets, fractions and roots inside each other."""

_RELATIONS = {"=": "=", "<": "<", ">": ">"}
_RELATION_COMMANDS = {"le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "=", "equiv": "=="}
_MATRICES = frozenset((*(f"{kind}matrix" for kind in ("", "p", "b", "B", "v", "small")), "array"))
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "langle": "rangle", "lfloor": "rfloor", "lceil": "rceil"}
_EMPTY = re.compile(
    r"(?:the )?(?:empty|null) set|no (?:real |integer |such )?(?:solutions?|roots?|values?|numbers?)(?: exists?)?|none",
    re.IGNORECASE,
)
_INTEGERS = re.compile(r"(?:the )?(?:set of )?(?:all )?(?:the )?integers", re.IGNORECASE)
_REALS = re.compile(r"(?:the )?(?:set of )?(?:all )?(?:the )?real(?:s| numbers?)|all reals?", re.IGNORECASE)
_INFIX_FUNCTIONS = frozenset({"mod", "bmod", "pmod", "pod"})
_NOT_A_FACTOR = listed(
    "le ge ne in notin approx equiv cup cap setminus times cdot div pm mp rangle rfloor rceil end bmod pmod "
    "mod pod to choose over atop wedge vee quad qquad mathbbZ and or subset subseteq implies iff Rightarrow "
    "rightarrow"
)


class Unread(ValueError):
    """An answer that cannot be read to its end; says at what."""


def read(text: str) -> Node:
    """The tree of an answer. Raises Unread where any of it has no meaning here."""
    found = tokens(text)
    if not found:
        raise Unread("nothing to read")
    special = _whole(found)
    return special if special is not None else Reader(found).answer()


def whole_in_words(text: str) -> bool:
    """Whether words say something of mathematics: the empty set, all real numbers."""
    try:
        return read(text).op in ("set", "name")
    except Unread:
        return False


def _whole(found: Sequence[Token]) -> Node | None:
    """What only a whole answer can be: words, and digits with a base."""
    if all(t.kind == "text" or t.text in "-'.!?&/\"()" for t in found) and any(t.kind == "text" for t in found):
        text = "".join((" " if t.apart else "") + t.text for t in found).strip()
        if _EMPTY.fullmatch(text):
            return Node("set")
        if _REALS.fullmatch(text):
            return Node("name", text="reals")
        if _INTEGERS.fullmatch(text):
            return Node("name", text="mathbbZ")
        if text.lower() in ("dne", "d.n.e."):
            return Node("words", text="does not exist")
        if text.lower() in ("infinity", "positive infinity"):
            return Node("infty")
        if re.split(r"[ -]", text.lower())[0] not in NUMBERS:
            return Node("words", text=text)
    if len(found) > 1 and all(
        t.kind == "name" and t.text.isupper() and not (t.apart and i) for i, t in enumerate(found)
    ):
        return Node("words", text="".join(t.text for t in found))  # HT is not TH
    flat = "".join((" " if t.apart else "") + t.text for t in found).strip()
    if re.fullmatch(r"\d{4}([-/])\d\d?\1\d\d?|\d\d?/\d\d?/\d{4}", flat):  # a date
        return Node("words", text=flat)
    based = re.fullmatch(
        r"\(?([0-9A-Fa-f ]+?)\)?\s*(?:_\s*\{?\s*\(?(\w+)\)?\s*\}?|\(?(?:in )?base[ -]?_?\{?(\w+)\}?\)?"
        r"|in (binary|octal|decimal|hexadecimal))",
        flat,
    )
    if based:
        name = (based[2] or based[3] or based[4]).lower()
        base = BASES.get(name) or (int(name) if name.isdecimal() and len(name) < 3 else None)
        digits = based[1].replace(" ", "").upper() or "?"
        if base is not None and 2 <= base <= 36 and digits[0].isdecimal() and all(int(d, 36) < base for d in digits):
            return Node("base", text=f"{digits} base {base}")
    return None


class Reader:
    """Reads one sequence of tokens; a new one for each answer."""

    def __init__(self, found: Sequence[Token]) -> None:
        self._tokens, self._at, self._depth, self._bars = found, 0, 0, 0
        self._bracketed = self._spaced = self._head = False

    # What comes next

    def _peek(self, ahead: int = 0) -> Token | None:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else None

    def _is(self, *texts: str, ahead: int = 0) -> bool:
        token = self._peek(ahead)
        return token is not None and token.kind in ("mark", "command") and token.text in texts

    def _word(self, *texts: str, ahead: int = 0) -> bool:
        token = self._peek(ahead)
        return token is not None and token.kind == "text" and token.text.lower() in texts

    def _take(self, *texts: str) -> bool:
        if self._is(*texts):
            self._at += 1
            return True
        return False

    def _need(self, *texts: str) -> Token:
        if not self._is(*texts):
            raise self._unread(f"{' or '.join(texts)} is missing")
        self._at += 1
        return self._tokens[self._at - 1]

    def _unread(self, why: str) -> Unread:
        rest = "".join(map(str, self._tokens[self._at :]))[:40]
        return Unread(f"{why} before {rest!r}" if rest else f"{why} at the end")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Unread("nested too deeply")

    # Answers

    def answer(self) -> Node:
        """The whole of the tokens as one answer."""
        found = self._listed("choose", "over")
        if self._is("choose", "over"):
            found = self._infix(found)
        if self._peek() is not None:
            raise self._unread("no meaning")
        return found

    def _listed(self, *closing: str) -> Node:
        """Clauses up to a closing mark: one of them as it is, several as a list with what joins them."""
        parts, joined = [self._clause()], set[str]()
        while self._peek() is not None and not self._is(*closing):
            by = ""
            while self._is(",", ";") or self._word("and", "or") or self._is("wedge", "vee", "&"):
                token = self._tokens[self._at]
                word = {"wedge": "and", "vee": "or", "&": "and"}.get(token.text, token.text.lower())
                by = word if word.isalpha() else by or ","
                self._at += 1
            if not by and not self._is_condition():
                raise self._unread("no meaning")
            by = by or ","
            joined.add(by)
            parts.append(self._clause())
        if len(parts) == 1:
            return parts[0]
        words = joined - {","}
        if len(words) > 1:
            raise Unread("both `and` and `or`")
        return Node("list", tuple(parts), words.pop() if words else ",")

    def _clause(self) -> Node:
        """Values with relations between them: a chain is the conjunction of its links."""
        self._take("=", "approx")  # of what is not said
        members, signs = [self._ratio()], []
        while True:
            token = self._peek()
            if token is None or token.kind not in ("mark", "command"):
                break
            negated = self._is("not") and self._is("=", ahead=1)
            sign = "!=" if negated else (
                _RELATIONS.get(token.text) if token.kind == "mark" else _RELATION_COMMANDS.get(token.text)
            )  # fmt: skip
            if sign is None:
                break
            self._at += 2 if negated else 1
            about = token.text == "approx" and (members[-1].op != "name" or members[-1].text in ("pi", "e"))
            member = self._ratio()
            if not about:  # what a value is about says nothing more of it
                signs.append(sign)
                members.append(member)
        if not signs:
            return self._remainder(members[0])
        if signs == ["=="]:
            right = self._remainder(members[1])
            if right.op != "mod":
                raise Unread("a congruence without its modulus")
            return Node("relation", (members[0], right), "=")
        if len(signs) == 1:
            return Node("relation", (members[0], members[1]), signs[0])
        links = zip(members, members[1:], signs, strict=False)
        return Node("chain", tuple(Node("relation", (left, right), sign) for left, right, sign in links))

    def _remainder(self, value: Node) -> Node:
        """`value`, or `value mod n`."""
        opened = self._is("(") and (self._is("mod", "bmod", "pmod", ahead=1) or self._word("mod", ahead=1))
        if not (opened or self._is(*_INFIX_FUNCTIONS) or self._word("mod", "modulo")):
            return value
        self._at += 2 if opened else 1
        modulus = self._sum()
        if opened:
            self._need(")")
        return Node("mod", (value, modulus))

    def _ratio(self) -> Node:
        parts = [self._union()]
        while (self._is(":") and not self._head) or (self._word("to") and not self._bracketed):
            self._at += 1
            parts.append(self._union())
        return parts[0] if len(parts) == 1 else Node("ratio", tuple(parts))

    def _union(self) -> Node:
        found = self._sum()
        while self._is("cup", "cap", "setminus") or self._word("union"):
            op = {"cap": "intersection", "setminus": "difference"}.get(self._tokens[self._at].text, "union")
            self._at += 1
            found = Node(op, (found, self._sum()))
        return found

    # Values

    def _sum(self) -> Node:
        parts = [self._signed()]
        while self._is("+", "-", "pm", "mp"):
            parts.append(self._signed())
        while parts[-1].op == "quantity" and self._kind(self._at) == "number":  # 1 hour 30 minutes
            whole, part = parts[-1], self._product()
            if part.op != "quantity" or part.text != whole.text or part.value >= whole.value:
                raise Unread(f"two numbers side by side: {part}")
            rest = Node("mul", (part.parts[0], number(part.value / whole.value)))
            parts[-1] = Node("quantity", (Node("add", (whole.parts[0], rest)),), whole.text, whole.value)
        found = parts[0] if len(parts) == 1 else Node("add", tuple(parts))
        return self._measured(found) if len(parts) > 1 else found

    def _spelled(self) -> Node:
        """A number in words: twenty-five, two hundred and six."""
        total, last = 0, 0
        while True:
            if self._word(*NUMBERS):
                value = NUMBERS[self._tokens[self._at].text.lower()]
                if last % 100 and (last % 100 < 20 or last % 10 or value > 9):
                    raise self._unread("numbers in words that make none")
                last += value
            elif self._word("hundred", "hundreds"):
                last *= 100
            elif self._word(*SCALES):
                total, last = total + last * SCALES[self._tokens[self._at].text.lower()], 0
            else:
                break
            self._at += 1
            follows = self._peek(1)
            joined = self._is("-") or self._word("and")
            if (
                joined
                and follows is not None
                and follows.kind == "text"
                and follows.text.lower() in NUMBERS
                and (last or total)
            ):
                if self._word("and") and not (last >= 100 or (total and not last)):
                    break
                self._at += 1
        return number(total + last)

    def _signed(self) -> Node:
        if self._take("+"):
            return self._signed()
        if self._take("-"):
            return Node("neg", (self._signed(),))
        if self._is("pm", "mp"):
            sign = self._tokens[self._at].text
            self._at += 1
            return Node("pm", (self._signed(),), sign)
        return self._product()

    def _product(self) -> Node:
        found = self._measured(self._power())
        while True:
            if self._take("times", "cdot", "*"):
                found = Node("mul", (found, self._factor()))
            elif self._take("/", "div"):
                found = Node("div", (found, self._factor()))
            elif self._starts_factor() and not (found.op == "quantity" and self._kind(self._at) == "number"):
                token = self._tokens[self._at]
                if token.text == "(" and token.apart and self._kind(self._at + 1) == "text" and self._said_again(found):
                    continue
                factor = self._power()
                if factor.op == "number" and token.kind == "number":
                    raise Unread(f"two numbers side by side: {factor}")
                again = (
                    token.text == "("
                    and token.apart
                    and factor.op in ("number", "div")
                    and found.op in ("number", "div")
                )
                if again and (factor.op != found.op or factor.places != found.places):
                    raise Unread("a number and another one in brackets")
                found = Node("mul", (found, factor))
            else:
                return found
            found = self._measured(found)

    def _said_again(self, value: Node) -> bool:
        """Whether the words in the brackets that follow are the number before them: 12 (twelve)."""
        words = self._inside(self._at)
        try:
            same = Reader(words).answer().value == value.value and value.op == "number"
        except Unread:
            return False
        self._at += (len(words) + 2) * same
        return same

    def _factor(self) -> Node:
        """What stands behind a sign of multiplication: it may have a sign of its own."""
        if self._take("-"):
            return Node("neg", (self._factor(),))
        if self._take("+"):
            return self._factor()
        return self._power()

    def _is_condition(self) -> bool:
        """Whether brackets that stand apart hold what is said of a name: `(k in Z)`."""
        return self._is("(") and self._apart(self._at) and any(t.text == "in" for t in self._inside(self._at))

    def _starts_factor(self) -> bool:
        token = self._peek()
        if token is None:
            return False
        if token.kind in ("number", "name"):
            return True
        if token.kind == "mark":
            if token.text == "(" and (self._is("mod", "bmod", ahead=1) or self._is_condition()):
                return False
            return token.text in ("(", "[", "{", "\\{") or (token.text in ("|", "||") and not self._bars)
        return token.kind == "command" and token.text not in _NOT_A_FACTOR and not token.text.startswith("end")

    def _measured(self, value: Node) -> Node:
        """`value` with what words say behind it: a scale, a unit."""
        while self._word(*SCALES):
            value = Node("mul", (value, number(SCALES[self._tokens[self._at].text.lower()])))
            self._at += 1
        if self._is("-") and self._kind(self._at + 1) == "text" and (self._text(self._at + 1) or "").lower() in PARTS:
            self._at += 1  # one-half
        if self._word(*PARTS):
            value = Node("div", (value, number(PARTS[self._tokens[self._at].text.lower()])))
            self._at += 1
        start, words = self._at, list[str]()
        while (token := self._peek()) is not None:
            if token.kind == "text" and not self._word("and", "or", "to", "union", "mod", "modulo"):
                words.append(token.text)
            elif words and self._is("^") and (power := self._power_of_unit())[0]:
                words[-1] += f"^{power[0]}"
                self._at += power[1] - 1
            elif words and self._is("."):
                words.append(" ")  # in.
            elif self._kind(self._at + 1) == "text" and (self._is("/") or (words and self._is("cdot", "-", "."))):
                words.append({"/": "/", "cdot": "*", "-": "-"}.get(token.text, " "))
            else:
                break
            self._at += 1
        if not words:
            return value
        found = unit(" ".join(words))
        if value.op == "quantity" and found is not None and found[0].endswith("^-1"):  # $10 per hour
            joined = " ".join(sorted(f"{value.text} {found[0]}".split(" ")))
            return Node("quantity", value.parts, joined, value.value * Fraction(*found[1:]))
        if found is None or value.op in ("tuple", "set", "matrix", "relation", "quantity"):
            self._at = start
            raise self._unread("words")
        if found[0] == "degree":
            return Node("degree", (value,))
        if words[0].lower() in ("percent", "pct", "percentage") or [w.lower() for w in words[:2]] == ["per", "cent"]:
            return Node("percent", (value,))
        name, top, bottom = found
        return Node("quantity", (value,), name, Fraction(top, bottom)) if name else value

    def _power_of_unit(self) -> tuple[str, int]:
        """(exponent, tokens that it takes) behind a unit; ("", 0) where there is none."""
        texts = [t.text for t in self._tokens[self._at + 1 : self._at + 5]]
        if texts[:1] == ["{"] and "}" in texts:
            inside = texts[1 : texts.index("}")]
            exponent, length = "".join(inside), len(inside) + 3
        else:
            exponent, length = "".join(texts[:1]), 2
        return (exponent, length) if re.fullmatch(r"-?\d", exponent) else ("", 0)

    def _power(self) -> Node:
        found = self._postfix(self._atom())
        if self._take("^"):
            if self._is("circ") or (self._is("{") and self._is("circ", ahead=1) and self._is("}", ahead=2)):
                self._at += 1 if self._is("circ") else 3
                if self._text(self._at) in ("C", "F"):
                    self._at += 1
                    return Node("quantity", (found,), "degree " + str(self._text(self._at - 1)), Fraction(1))
                return self._postfix(Node("degree", (found,)))
            found = self._postfix(Node("pow", (found, self._script())))
        return found

    def _postfix(self, found: Node) -> Node:
        while True:
            if self._is("!"):
                self._at += 1
                twice = self._take("!")
                found = Node("factorial", (found,), "!!" if twice else "!")
            elif self._take("%"):
                found = Node("percent", (found,))
            elif self._is("circ") and self._kind(self._at + 1) != "name":  # behind a name it joins two functions
                self._at += 1
                found = Node("degree", (found,))
            else:
                return found

    def _script(self) -> Node:
        """An exponent or index: a group, a bracket, a signed number, or one atom."""
        if self._is("{"):
            return self._group()
        if self._take("-"):
            return Node("neg", (self._script(),))
        self._take("+")
        return self._digit() if self._kind(self._at) == "number" else self._atom()

    def _group(self) -> Node:
        self._need("{")
        self._deeper()
        if self._take("}"):
            raise Unread("empty braces")
        bars, self._bars = self._bars, 0
        found = self._listed("}", "choose", "over", "atop")
        if self._is("choose", "over"):
            found = self._infix(found, "}")
        self._bars = bars
        self._need("}")
        self._depth -= 1
        return Node("set", found.parts) if found.op == "list" and found.text == "," else found

    def _infix(self, above: Node, *closing: str) -> Node:
        r"""`{n \choose k}` and `{a \over b}` behind their first operand."""
        op = "binom" if self._is("choose") else "div"
        self._at += 1
        return Node(op, (above, self._listed(*closing)))

    def _argument(self) -> Node:
        r"""What `\frac` or `\sqrt` takes: a group, one digit, or one atom."""
        if self._is("{"):
            return self._group()
        token = self._peek()
        if token is not None and token.kind == "number" and len(token.text) > 1 and token.text.isdecimal():
            self._tokens = [
                *self._tokens[: self._at],
                Token("number", token.text[0], token.apart),
                Token("number", token.text[1:]),
                *self._tokens[self._at + 1 :],
            ]
        self._deeper()
        found = self._atom(grouped=False)
        self._depth -= 1
        return found

    # Atoms

    def _atom(self, grouped: bool = True) -> Node:
        token = self._peek()
        if token is None:
            raise self._unread("something is missing")
        if token.kind == "number":
            return self._number() if grouped else self._digit()
        if token.kind == "name":
            self._at += 1
            return self._named(token.text)
        if token.kind == "text":
            if self._word(*NUMBERS):
                return self._spelled()
            if self._word("half"):
                return number(1)  # what it is half of
            raise self._unread("words")
        if token.text in ("(", "[", "\\{", "langle"):
            return self._brackets()
        if token.text == "{":
            return self._based_index() if self._is("}", ahead=1) else self._group()
        if token.text in ("^", "_"):
            return self._based_index()
        if token.text in ("|", "||"):
            return self._absolute(token.text)
        if token.text in ("dollar", "euro", "pounds"):
            self._at += 1
            value = self._signed()
            if value.op == "quantity" and value.text.endswith("^-1"):  # $10 per hour
                joined = " ".join(sorted((value.text, {"pounds": "pound"}.get(token.text, token.text))))
                return Node("quantity", value.parts, joined, value.value)
            inner = value.parts[0] if value.op == "quantity" else value
            if value.op == "quantity" and KINDS & {*value.text.split(" ")} - {
                {"pounds": "pound"}.get(token.text, token.text)
            }:
                raise Unread("two units")
            return Node("quantity", (inner,), {"pounds": "pound"}.get(token.text, token.text), Fraction(1))
        if token.kind == "command":
            self._at += 1
            return self._command(token.text)
        raise self._unread("no meaning")

    def _digit(self) -> Node:
        token = self._peek()
        assert token is not None
        self._at += 1
        return number(Fraction(token.text))

    def _number(self) -> Node:
        r"""Digits with their separators: 1,234, 1{,}234, 12\,345, 12 345, 0.\overline{3}, 1.5e3, 3 1/2."""
        token = self._tokens[self._at]
        digits, at = token.text, self._at + 1
        if digits.isdecimal() and len(digits) <= 3 and digits[0] != "0":
            while True:
                comma = (
                    1
                    if self._text(at) == ","
                    else 3
                    if [self._text(at + i) for i in range(3)] == ["{", ",", "}"]
                    else 0
                )
                after = self._tokens[at + comma] if at + comma < len(self._tokens) else None
                if after is None or after.kind != "number" or not re.fullmatch(r"\d{3}(\.\d*)?", after.text):
                    break
                if comma == 1 and (after.apart or (self._bracketed and not self._spaced)):
                    break
                digits, at = digits + after.text, at + comma + 1
                if "." in after.text:
                    break
        self._at = at
        whole = Fraction(digits)
        places = len(digits.partition(".")[2])
        period = [self._text(at), self._kind(at + 1), self._text(at + 2)] == ["(", "number", ")"] and not self._apart(
            at
        )
        if "." in digits and (
            self._is("overline", "bar", "dot") or (period and (self._text(at + 1) or "").isdecimal())
        ):
            return self._repeating(digits)
        exponent = re.fullmatch(r"[eE]", self._text(self._at) or "") and not self._apart(self._at)
        if exponent and self._kind(self._at) == "name":
            signed = self._text(self._at + 1) in ("+", "-")
            power = self._at + 1 + signed
            if self._kind(power) == "number" and (self._text(power) or "").isdecimal() and not self._apart(power):
                value = int(self._text(power) or 0)
                if value > 999:
                    raise Unread("an exponent that large")
                value *= -1 if self._text(self._at + 1) == "-" else 1
                self._at = power + 1
                return number(whole * Fraction(10) ** value, max(0, places - value))
        if digits.isdecimal() and self._kind(self._at) == "number" and self._text(self._at + 1) == "/":
            # A mixed number: a whole one, white space, a fraction of plain digits.
            top, bottom = self._text(self._at) or "", self._text(self._at + 2) or ""
            if self._apart(self._at) and top.isdecimal() and bottom.isdecimal() and int(top) < int(bottom):
                self._at += 3
                return number(whole + Fraction(int(top), int(bottom)))
        if digits.isdecimal() and self._is("frac"):
            start = self._at
            self._at += 1
            top_node, bottom_node = self._argument(), self._argument()
            plain = all(n.op == "number" and n.value.denominator == 1 for n in (top_node, bottom_node))
            if plain and bottom_node.value and not self._is("!") and (self._is("circ", ahead=1) or not self._is("^")):
                return number(whole + top_node.value / bottom_node.value)
            self._at = start
        return number(whole, places)

    def _text(self, at: int) -> str | None:
        return self._tokens[at].text if at < len(self._tokens) else None

    def _kind(self, at: int) -> str:
        return self._tokens[at].kind if at < len(self._tokens) else ""

    def _apart(self, at: int) -> bool:
        return at < len(self._tokens) and self._tokens[at].apart

    def _repeating(self, digits: str) -> Node:
        r"""0.1\overline{6}, 0.\dot{1}\dot{2}: exactly."""
        repeated = ""
        if self._take("overline", "bar"):
            repeated = self._digits_of_argument()
        elif self._take("("):  # 0.1(6)
            repeated = self._digits_of_argument()
            self._need(")")
        else:
            while self._is("dot") or (repeated and self._kind(self._at) == "number"):
                if self._take("dot"):
                    repeated += self._digits_of_argument()
                else:
                    repeated += self._tokens[self._at].text
                    self._at += 1
        whole, _, part = digits.partition(".")
        shift = 10 ** len(part)
        return number(
            Fraction(int(whole + part or 0), shift) + Fraction(int(repeated), shift * (10 ** len(repeated) - 1))
        )

    def _digits_of_argument(self) -> str:
        braces = self._take("{")
        token = self._peek()
        if token is None or token.kind != "number" or not token.text.isdecimal():
            raise self._unread("digits are missing")
        self._at += 1
        if braces:
            self._need("}")
        return token.text

    def _named(self, name: str) -> Node:
        """A name with its index and its primes."""
        second = self._text(self._at) or ""
        pair = name.isupper() and self._kind(self._at) == "name" and second.isupper() and not self._apart(self._at)
        if pair and self._kind(self._at + 1) != "name" and self._text(self._at + 1) not in ("^", "_", "("):
            self._at += 1  # a segment: AB is BA, and AB*CD not AC*BD
            return Node("name", text="".join(sorted(name + second)))
        if self._take("_"):
            name += f"_{self._index()}"
        while self._take("'"):
            name += "'"
        if name == "C" and [self._text(self._at + i) for i in (0, 2, 4)] == ["(", ",", ")"]:
            chosen = self._brackets()
            if chosen.op == "tuple" and all(part.op in ("number", "name") for part in chosen.parts):
                return Node("binom", chosen.parts)
            raise Unread("C of that")
        if name == "reals" and self._take("^"):
            sign = self._text(self._at + self._is("{")) or ""
            if sign not in "+-":
                raise self._unread("no meaning")
            self._at += 3 if self._is("{") else 1
            ends = (number(0), Node("infty")) if sign == "+" else (Node("neg", (Node("infty"),)), number(0))
            return Node("tuple", ends, "()")
        return self._applied(name)

    def _applied(self, name: str) -> Node:
        """A name, or a function of what stands in brackets behind it: always behind f, g, F, G and letters with primes
        or an inverse's exponent; behind another letter where it is one name and an equation follows: `x(t) =`."""
        at = self._at
        inverse = [self._text(at + i) for i in range(4)] == ["^", "{", "-", "1"] and self._text(at + 5) == "("
        if inverse:
            at, name = at + 5, name + "^-1"
        if self._text(at) != "(" or self._apart(at):
            if inverse:
                name = name[:-3]
            return Node("name", text=name)
        one = self._kind(at + 1) in ("name", "number") and self._text(at + 2) == ")"
        letter = name.rstrip("'").split("_")[0].removesuffix("^-1")
        events = letter in ("P", "E") and all(
            t.text.isupper() or t.text in ("cup", "cap", "|", ",", "+", "-", "^", "2", "{", "}")
            for t in self._inside(at)
        )
        always = inverse or name.endswith("'") or letter in _FUNCTION_NAMES or events or (one and letter in _OF_ONE)
        always = (
            always
            or (one and self._text(at + 1) == "t")
            or (one and self._kind(at + 1) == "number" and letter not in ("pi", "e", "i"))
        )
        if not (always or (one and self._kind(at + 1) == "name" and self._text(at + 3) == "=")):
            return Node("name", text=name)
        self._at = at
        inside = self._brackets()
        return Node("apply", inside.parts if inside.op == "tuple" else (inside,), name)

    def _inside(self, at: int) -> list[Token]:
        """The tokens in the brackets that open there."""
        depth = 0
        for end in range(at, len(self._tokens)):
            depth += (self._text(end) == "(") - (self._text(end) == ")")
            if depth == 0:
                return list(self._tokens[at + 1 : end])
        return []

    def _index(self) -> str:
        """An index as it is written: it is part of a name."""
        if not self._take("{"):
            token = self._peek()
            if token is None or (token.kind == "mark" and token.text != "'"):
                raise self._unread("an index is missing")
            self._at += 1
            return token.text
        depth, written = 1, ""
        while (token := self._peek()) is not None:
            depth += (token.text == "{") - (token.text == "}")
            self._at += 1
            if depth == 0:
                return written
            written += token.text
        raise self._unread("braces that do not close")

    def _based_index(self) -> Node:
        """`{}_5C_2`, `{}^5C_2`: a binomial coefficient."""
        self._at += 0 if self._is("_", "^") else 2
        if not self._take("_", "^"):
            raise self._unread("empty braces")
        top = self._script()
        letter = self._peek()
        if letter is None or letter.text not in ("C", "P") or not self._is("_", ahead=1):
            raise self._unread("no meaning")
        self._at += 2
        bottom = self._script()
        chosen = Node("binom", (top, bottom))
        return chosen if letter.text == "C" else Node("mul", (chosen, Node("factorial", (bottom,), "!")))

    def _brackets(self) -> Node:
        opening = self._tokens[self._at].text
        self._at += 1
        self._deeper()
        bars, self._bars = self._bars, 0
        spaced, before = self._spaced, self._bracketed
        self._spaced, self._bracketed = self._has_spaced_comma(), True
        closing = (")", "]", "\\}", "rangle")
        if opening == "\\{" and self._builds():
            found: Node | None = self._builder()
        else:
            found = None if self._is(*closing) else self._listed(*closing)
        shut = self._need(*closing).text
        self._spaced, self._bracketed, self._bars = spaced, before, bars
        self._depth -= 1
        kind = {"\\{": "{", "langle": "<"}.get(opening, opening) + {"\\}": "}", "rangle": ">"}.get(shut, shut)
        if found is None:
            if kind != "{}":
                raise Unread("empty brackets")
            return Node("set")
        if found.op == "builder":
            if kind != "{}":
                raise Unread("brackets that do not match")
            return found
        listed = found.op == "list"
        if listed and found.text != "," and kind != "()":
            raise Unread(f"`{found.text}` inside brackets")
        if kind == "{}":
            return Node("set", found.parts if listed else (found,))
        if listed and found.text == ",":
            if kind not in ("()", "[]", "<>") and not (kind in ("(]", "[)") and len(found.parts) == 2):
                raise Unread("brackets that do not match")
            return Node("tuple", found.parts, kind)
        if kind == "<>":
            return Node("tuple", (found,), kind)
        if kind not in ("()", "[]"):
            raise Unread("brackets that do not match")
        return found

    def _builds(self) -> bool:
        """Whether these braces hold `x | ...`, `x : ...` or `x in S | ...`."""
        at = self._at + 1
        if self._kind(self._at) != "name":
            return False
        if self._text(at) == "in":
            while at < len(self._tokens) and self._text(at) not in ("|", ":", "\\}"):
                at += 1
        return self._text(at) in ("|", ":")

    def _builder(self) -> Node:
        self._bars, self._head = 1, True
        head = self._listed("|", ":")
        self._bars, self._head = 0, False
        self._need("|", ":")
        return Node("builder", (head, self._listed("\\}")))

    def _has_spaced_comma(self) -> bool:
        """Whether commas in these brackets are followed by white space: then tight ones may be of thousands."""
        depth, tight = 1, False
        for at in range(self._at, len(self._tokens)):
            token = self._tokens[at]
            depth += (token.text in ("(", "[", "\\{", "langle")) - (token.text in (")", "]", "\\}", "rangle"))
            if depth == 0:
                break
            if depth == 1 and token.text == ";":
                tight = True
            if depth == 1 and token.text == "," and self._apart(at + 1):
                tight = True
        return tight

    def _absolute(self, bar: str) -> Node:
        self._need(bar)
        self._deeper()
        self._bars += 1
        found = self._sum()
        self._bars -= 1
        self._need(bar)
        self._depth -= 1
        return Node("abs", (found,), "" if bar == "|" else "norm")

    def _command(self, name: str) -> Node:
        if name == "frac":
            top, bottom = self._argument(), self._argument()
            if _differential(top) and _differential(bottom):
                return Node("name", text=f"{top}/{bottom}")
            return Node("div", (top, bottom))
        if name == "binom":
            return Node("binom", (self._argument(), self._argument()))
        if name == "sqrt":
            degree = number(2)
            if self._take("["):
                degree = self._sum()
                self._need("]")
            return Node("root", (self._brackets() if self._is("(") else self._argument(), degree))
        if name in ("lfloor", "lceil"):
            self._deeper()
            found = self._sum()
            self._need(_CLOSING[name])
            self._depth -= 1
            return Node("call", (found,), name[1:])
        if name.startswith("begin") and name[5:].rstrip("*") in _MATRICES:
            return self._matrix(name[5:])
        if name == "beginaligned" or name == "begincases":
            raise Unread(name)
        if name in FUNCTIONS:
            return self._function(name)
        if name in ACCENTS:
            under = self._index()
            if name == "overline" and len(under) == 2 and under.isupper():
                return Node("name", text="".join(sorted(under)))  # a segment
            return self._named(f"{name}({under})")
        if name == "infty":
            return Node("infty")
        if name == "emptyset":
            return Node("set")
        if name in ("angle", "triangle"):
            while self._kind(self._at) == "name" and (self._text(self._at) or "").isupper():
                name += (" " if name.isalpha() and " " not in name else "") + str(self._text(self._at))
                self._at += 1
            return Node("name", text=name)
        if name in ("dots", "reals") or name.startswith("mathbb") or name in _LETTERS:
            return self._named(name)
        self._at -= 1
        raise self._unread("no meaning")

    def _function(self, name: str) -> Node:
        base = power = None
        for _ in range(2):
            if base is None and self._take("_"):
                base = self._script()
            if power is None and self._take("^"):
                power = self._script()
        self._deeper()
        if self._is("("):
            found = self._brackets()
        elif self._is("{"):
            found = self._group()
        else:
            found = self._bare_argument()
        self._depth -= 1
        arguments = found.parts if found.op in ("tuple", "set") else (found,)
        if base is not None:
            if name not in ("log", "lg"):
                raise Unread(f"{name} with an index")
            arguments = (*arguments, base)
        if name == "det" and found.op == "matrix":
            return _determinant(found)
        if power is not None and power.op == "neg" and power.parts[0] == number(1, 0):
            if name not in INVERTED:
                raise Unread(f"the inverse of {name}")
            return Node("call", arguments, "arc" + name)
        if name in ("gcd", "lcm", "max", "min"):
            arguments = tuple(sorted(arguments, key=str))
        called = Node("call", arguments, _SAME_FUNCTION.get(name, name))
        return called if power is None else Node("pow", (called, power))

    def _bare_argument(self) -> Node:
        """Factors side by side up to the next function: `2x` of `\\sin 2x \\cos x`."""
        if self._take("-"):
            return Node("neg", (self._bare_argument(),))
        token = self._peek()
        if token is not None and token.kind == "command" and token.text in FUNCTIONS:
            self._at += 1
            return self._function(token.text)
        found = self._power()
        while self._starts_factor() and not self._is("(", "[", "{", "\\{") and not self._is(*FUNCTIONS):
            found = Node("mul", (found, self._power()))
        if (
            self._is("/")
            and self._kind(self._at + 1) == "number"
            and {n.text for n in found.walk() if n.op == "name"} == {"pi"}
        ):
            self._at += 1
            found = Node("div", (found, self._power()))
        return found

    def _matrix(self, kind: str) -> Node:
        self._deeper()
        rows: list[list[Node]] = [[]]
        while not self._is(f"end{kind}"):
            if self._take("\\\\"):
                rows.append([])
            else:
                if rows[-1]:
                    self._need("&")
                rows[-1].append(self._clause())
        self._at += 1
        self._depth -= 1
        if not rows[-1]:
            rows.pop()
        if not rows or len({len(row) for row in rows}) != 1:
            raise Unread("a matrix whose rows are unequal")
        found = Node("matrix", tuple(Node("row", tuple(row)) for row in rows))
        return _determinant(found) if kind.startswith("v") else found


_LETTERS = listed(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar angle triangle"
)
_OF_ONE = listed("h p q u v y H P Q T")
"""Letters that are functions of one name in brackets, and factors of anything else there."""
_FUNCTION_NAMES = listed("f g F G O Gamma Lambda sigma tau zeta phi psi varphi")
_SAME_FUNCTION = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}


def _differential(node: Node) -> bool:
    """Whether this is `d`, `dx` or `d^2x`, above or below another one."""
    first = node
    while first.op == "mul" or (first.op == "pow" and first.parts[0].text == "d"):
        first = first.parts[0]
    return first == Node("name", text="d")


def _determinant(matrix: Node) -> Node:
    """Of a square matrix of at most four rows, as an expression."""
    rows = [row.parts for row in matrix.parts]
    if len(rows) != len(rows[0]) or len(rows) > 4:
        raise Unread("a determinant of that")

    def minor(above: int, left: Sequence[int]) -> Node:
        if len(left) == 1:
            return rows[above][left[0]]
        terms = []
        for i, column in enumerate(left):
            rest = minor(above + 1, [c for c in left if c != column])
            term = Node("mul", (rows[above][column], rest))
            terms.append(Node("neg", (term,)) if i % 2 else term)
        return Node("add", tuple(terms))

    return minor(0, range(len(rows)))
