"""The columns and tables of the thinking machine, shared by its definition, its kernel and its C++ twin.

State lives in slots, one per running sequence, never in batch rows. All tensors are int32 unless they say otherwise.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

UNLIMITED = 2**31 - 1


class Phase(IntEnum):
    """Where a sequence is; values of `State.PHASE`."""

    PLAIN, THINK, CLOSING, ANSWER = range(4)


class Text(IntEnum):
    """Rows of `MachineTables.strings`; as values of `State.FORCED` they name the string under way, plus one."""

    EXTENSION, END, BUDGET_END, OPENER = range(4)


class Finish(IntEnum):
    """Why a sequence is over; values of `State.FINISH`."""

    RUNNING, STOP, LENGTH, ERROR = range(4)


class Stop(IntEnum):
    """Why thinking ended; values of `State.STOP_REASON`."""

    NONE, NATURAL, EOS, BUDGET, MAX_TOKENS, CONTEXT, TRUNCATED, LOOP, CLIENT = range(9)


class State(IntEnum):
    """Columns of `MachineTables.state`, what changes from token to token."""

    PHASE = 0
    FINISH = 1
    STOP_REASON = 2
    LENGTH = 3  # tokens in `history`: prompt + committed
    COMMITTED = 4  # tokens committed in this response
    THINKING = 5  # T
    EXTENSIONS_LEFT = 6
    EXTENSIONS_USED = 7
    FORCED = 8  # 0, or 1 + the Text under way
    FORCED_POS = 9  # its next token
    MASK_NEXT = 10  # the next draw in thinking is masked
    NEWLINE = 11  # the text so far ends in a newline
    MATCH_FROM = 12  # first position of `history` that a delimiter may start at
    CLOSED = 13  # `end` was committed in this response
    ANSWERED = 14  # tokens sampled after it that are not BLANK
    LOOP_RUN = 15  # consecutive tokens equal to those `loop_ngram` before them
    END_REQUESTED = 16  # live control: treat as at the limit


class Param(IntEnum):
    """Columns of `MachineTables.params`, fixed per request (the budget may be moved by live control)."""

    BUDGET = 0  # UNLIMITED where there is none
    MIN_THINKING = 1
    GRACE = 2
    TRUNCATE = 3
    EOS_STOPS = 4
    IGNORE_EOS = 5
    MAX_TOKENS = 6
    MAX_CONTEXT = 7  # context - prompt: tokens that may be committed before the context is full
    RESERVE = 8  # F + R
    LOOP_NGRAM = 9
    LOOP_RUN = 10  # loop_ngram * (loop_count - 1); UNLIMITED where off
    EXTENSION_LEN = 11
    END_LEN = 12
    BUDGET_END_LEN = 13
    BUDGET_END_AT = 14  # where `end` starts inside BUDGET_END (0 unless the request brought its own string)
    OPENER_LEN = 15  # 0: format `none`
    NEWLINE_ID = 16
    MIN_ANSWER = 17
    MIN_TOKENS = 18
    ANSWER_AT = 19  # the first token of BUDGET_END that is past `end`
    TEXT_ROW = 20  # delimiters of plain text: first row of `next` for the triggers; -1: they are special tokens
    OPENER_ROW = 21  # the same for the opener


class Record(IntEnum):
    """Columns of what a transition reports to the host."""

    TOKEN = 0  # -1: nothing was committed
    KIND = 1
    FORCED = 2
    FINISH = 3
    STOP_REASON = 4
    THINKING = 5
    EXTENSIONS_USED = 6
    TAKEN = 7  # tokens at the end of the text that were taken back before this one
    HELD = 8  # tokens that now stand at its end and may be taken back: they may begin a delimiter of plain text


class Trait(IntEnum):
    """Bits of `MachineTables.traits`."""

    ENDS_LINE = 1  # the token's text ends in a newline
    BLANK = 2  # it is white space alone, or nothing


def traits_of(text: bytes) -> int:
    """The `Trait` bits of a token whose bytes are `text`."""
    blank = not text.decode("utf-8", "replace").strip()
    return Trait.ENDS_LINE * text.endswith(b"\n") | Trait.BLANK * blank


HIT, HIT_INSIDE = -1, -2
"""A delimiter is complete: it started in an earlier token, or inside this one."""
HELD_SHIFT = 8


class Kind(IntEnum):
    """What a token is; values of `Record.KIND`."""

    PLAIN, OPENER, REASONING, DELIMITER, ANSWER = range(5)


PLAIN, OPENER, REASONING, DELIMITER, ANSWER = map(int, Kind)


@dataclass(frozen=True, eq=False)
class MachineTables:
    """Everything the machine reads and writes, indexed by slot. S slots, L string length, C context, V vocabulary.

    Compared by identity: what is derived from the tensors' addresses is kept by it.
    """

    state: "Tensor"
    """[S, len(State)]"""
    params: "Tensor"
    """[S, len(Param)]"""
    strings: "Tensor"
    """[S, len(Text), L], padded with -1"""
    trigger_last: "Tensor"
    """[S, K]: each trigger's last token, -1 where there is none"""
    trigger_lead: "Tensor"
    """[S, K]: how many tokens of `end` come before it (0 for a one-token trigger)"""
    stop_ids: "Tensor"
    """[S, J]: the client's stop tokens, -1 where there is none"""
    history: "Tensor"
    """[S, C + 1]: prompt and committed tokens; the last column takes the writes of rows that commit nothing"""
    eos_ids: "Tensor"
    """[E]"""
    traits: "Tensor"
    """[V] uint8: what is known of each token's text, bits of Trait"""
    max_lead: int = 0
    """Longest lead of any trigger in the tables; 0 where every trigger is one token and no history is read for it"""
    max_opener: int = 0
    """Longest opener that a running sequence may still write by itself; 0 skips that match"""
    loops: bool = False
    """Whether any running sequence has a loop guard"""
    text: bool = False
    """Whether any row may have delimiters of plain text; the two tables below are read only then"""
    next: "Tensor | None" = None
    """[R, V] int16: how a token's bytes move a match of plain-text delimiters. A format has a row for each state of its
    triggers and of its opener. HIT or HIT_INSIDE where a delimiter is complete in the token, else twice the next state,
    plus one where that match starts inside the token; 0: no match is under way"""
    marks: "Tensor | None" = None
    """[S, C + 1]: for each place in `history` the match that is under way behind it: its state, and from HELD_SHIFT on
    how many tokens that may be taken back it touches"""
