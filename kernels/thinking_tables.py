"""The columns and tables of the thinking machine, shared by its definition, its kernel and its C++ twin.

State lives in slots, one per running sequence, never in batch rows. All tensors are int32 unless they say otherwise.
"""

from dataclasses import dataclass
from enum import IntEnum

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

    (
        PHASE,
        FINISH,
        STOP_REASON,
        LENGTH,  # tokens in `history`: prompt + committed
        COMMITTED,  # tokens committed in this response
        THINKING,  # T
        EXTENSIONS_LEFT,
        EXTENSIONS_USED,
        FORCED,  # 0, or 1 + the Text under way
        FORCED_POS,  # its next token
        MASK_NEXT,  # the next draw in thinking is masked
        NEWLINE,  # the text so far ends in a newline
        MATCH_FROM,  # first position of `history` that a delimiter may start at
        CLOSED,  # `end` was committed in this response
        ANSWERED,  # tokens sampled after it
        LOOP_RUN,  # consecutive tokens equal to those `loop_ngram` before them
        END_REQUESTED,  # live control: treat as at the limit
    ) = range(17)


class Param(IntEnum):
    """Columns of `MachineTables.params`, fixed per request (the budget may be moved by live control)."""

    (
        BUDGET,  # UNLIMITED where there is none
        MIN_THINKING,
        GRACE,
        TRUNCATE,
        EOS_STOPS,
        IGNORE_EOS,
        MAX_TOKENS,
        MAX_CONTEXT,  # context - prompt: tokens that may be committed before the context is full
        RESERVE,  # F + R
        LOOP_NGRAM,
        LOOP_RUN,  # loop_ngram * (loop_count - 1); UNLIMITED where off
        EXTENSION_LEN,
        END_LEN,
        BUDGET_END_LEN,
        BUDGET_END_AT,  # where `end` starts inside BUDGET_END (0 unless the request brought its own string)
        OPENER_LEN,  # 0: format `none`
        NEWLINE_ID,
        MIN_ANSWER,
        MIN_TOKENS,
    ) = range(19)


class Record(IntEnum):
    """Columns of what a transition reports to the host."""

    (
        TOKEN,  # -1: nothing was committed
        KIND,
        FORCED,
        FINISH,
        STOP_REASON,
        THINKING,
        EXTENSIONS_USED,
    ) = range(7)


class Kind(IntEnum):
    """What a token is; values of `Record.KIND`."""

    PLAIN, OPENER, REASONING, DELIMITER, ANSWER = range(5)


PLAIN, OPENER, REASONING, DELIMITER, ANSWER = map(int, Kind)


@dataclass(frozen=True, eq=False)
class MachineTables:
    """Everything the machine reads and writes, indexed by slot. S slots, L string length, C context, V vocabulary.

    Compared by identity: what is derived from the tensors' addresses is kept by it.
    """

    state: Tensor
    """[S, len(State)]"""
    params: Tensor
    """[S, len(Param)]"""
    strings: Tensor
    """[S, len(Text), L], padded with -1"""
    trigger_last: Tensor
    """[S, K]: each trigger's last token, -1 where there is none"""
    trigger_lead: Tensor
    """[S, K]: how many tokens of `end` come before it (0 for a one-token trigger)"""
    stop_ids: Tensor
    """[S, J]: the client's stop tokens, -1 where there is none"""
    history: Tensor
    """[S, C + 1]: prompt and committed tokens; the last column takes the writes of rows that commit nothing"""
    eos_ids: Tensor
    """[E]"""
    ends_line: Tensor
    """[V] bool: the token's text ends in a newline"""
    max_lead: int = 0
    """Longest lead of any trigger in the tables; 0 where every trigger is one token and no history is read for it"""
    max_opener: int = 0
    """Longest opener that a running sequence may still write by itself; 0 skips that match"""
    loops: bool = False
    """Whether any running sequence has a loop guard"""
