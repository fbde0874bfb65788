"""What an answer was read as: a tree of few kinds of nodes, and how it is shown."""

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Node:
    """One operation with its parts.

    Attributes:
        op: what it is. Values: number, name, add, mul, div, neg, pow, root, call, factorial, binom, abs, pm, infty,
            degree, percent. Answers: list, tuple, set, matrix (of rows), relation, chain (of relations), ratio, union,
            intersection, difference, builder, quantity, base, mod, words.
        parts: its operands.
        text: name, function, relation, brackets, connective, unit or words.
        value: of a number.
        places: decimals written of a number; None for what was no decimal.
    """

    op: str
    parts: tuple["Node", ...] = ()
    text: str = ""
    value: Fraction = field(default=Fraction(0))
    places: int | None = None

    def __str__(self) -> str:
        """In one line, operators between their operands and everything bracketed that could be doubted."""
        each = list(map(str, self.parts))
        match self.op:
            case "number":
                return str(self.value)
            case "name" | "words" | "infty" | "base":
                return self.text or "infinity"
            case "add" | "mul" | "union" | "intersection" | "difference" | "div" | "pow" | "ratio":
                mark = {"add": " + ", "mul": "*", "div": "/", "pow": "^", "ratio": ":"}.get(self.op, f" {self.op} ")
                return "(" + mark.join(each) + ")"
            case "neg" | "pm":
                return f"({self.text or '-'}{each[0]})"
            case "relation":
                return f"{each[0]} {self.text} {each[1]}"
            case "tuple":
                return self.text[0] + ", ".join(each) + self.text[1]
            case "set":
                return "{" + ", ".join(each) + "}"
            case "list":
                return f" {self.text} ".join(each) if self.text.isalpha() else ", ".join(each)
            case "matrix":
                return f"{self.text}[" + "; ".join(", ".join(map(str, row.parts)) for row in self.parts) + "]"
            case "quantity":
                return f"{each[0]} {self.text}" if self.value == 1 else f"{each[0]} x {self.value} {self.text}"
            case _:
                return f"{self.text or self.op}({', '.join(each)})"

    def walk(self) -> "list[Node]":
        """This node and all below it."""
        found = [self]
        for node in found:
            found += node.parts
        return found


def number(value: Fraction | int, places: int | None = None) -> Node:
    """A number as a node."""
    return Node("number", value=Fraction(value), places=places)
