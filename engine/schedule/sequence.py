"""One sample of a request, as the scheduler sees it."""

from array import array
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec

from engine.request import SamplingParams
from engine.schedule.page_pool import ROOT
from engine.thinking.plan import ThinkingPlan


@dataclass(frozen=True)
class Prepared:
    """A request that can run."""

    prompt: array
    """token ids, typecode i"""
    params: SamplingParams
    plan: ThinkingPlan
    reads: tuple[int, ...] = ()
    """Positions that are read, ascending: the request is over with the last of them, and nothing is drawn."""
    labels: tuple[int, ...] = ()
    """What a language model is asked to choose from there; a reward model has a head for it."""
    tops: int | None = None
    """Alternatives beside the log-probability of the token that follows each of `reads`; None: scores are asked for."""


class Admission(msgspec.Struct, frozen=True, tag=True):
    """What every rank needs to know of a new request: the command that lets it in."""

    number: int
    prepared: Prepared
    seed: int

    @classmethod
    def of(cls, number: int, prepared: Prepared, seed: int, place: int) -> "Admission":
        """`seed` is the engine's, and `place` what a request that has none draws by: such requests differ from each
        other, and not from run to run."""
        own = prepared.params.seed
        return cls(number, prepared, (seed << 32 ^ place * 0x9E3779B97F4A7C15) % 2**63 if own is None else own)


class Control(Enum):
    """What a running request can be told."""

    END_THINKING = "end_thinking"
    EXTEND = "extend"
    SET_BUDGET = "set_budget"


@dataclass(eq=False, slots=True)
class Sequence:
    """Tokens, pages and slot of one sample. `tokens` is what the host has seen; `inflight` steps may add to it."""

    admission: Admission
    sample: int
    arrival: int
    tokens: array
    computed: int = 0
    """Leading tokens whose keys and values are in the cache, or will be once the steps in flight are done."""
    inflight: int = 0
    """Steps launched for this sequence whose token the host has not read."""
    cached: int = 0
    """Prompt tokens found in the prefix cache at the first admission."""
    pages: list[int] = field(default_factory=list)
    published: int = 0
    """Leading pages that the prefix cache knows."""
    publish_at: int = 0
    """Length from which another page may be full: before it, a new token has nothing to publish."""
    chain: int = ROOT
    """Uid to publish the next page under."""
    held: int = 0
    """Tokens at the end of `tokens` that the device may take back: they may begin a delimiter of plain text."""
    decoding: bool = False
    """A token has been drawn since the last admission, so the next input is on the device."""
    slot: int = -1
    """-1: waiting, or finished"""
    finished: bool = False
    needs: int = 0
    """Bits of engine.step.slots: what its rows need of a step."""
    budget: int | None = None
    """A budget set while the request runs, in place of the plan's."""
    controls: list[Control] = field(default_factory=list)
    """Live control that came while the sequence had no slot; applied when it gets one."""
    seated_at: float | None = None
    """Monotonic seconds at the first admission; for reports only."""
    saved_state: Any = None
    """What the machine knows of the sequence (device tensors) while it is preempted."""
    siblings: list["Sequence"] = field(default_factory=list)
    """Other samples of the request, which fork when this one's prompt is computed."""
    key: tuple[int, int] = field(init=False)
    """(request id, sample index)"""
    limit: int = field(init=False)
    """Length at which the device ends the sequence by itself."""

    def __post_init__(self) -> None:
        plan = self.admission.prepared.plan
        self.key = self.admission.number, self.sample
        drawn = 0 if self.admission.prepared.reads else min(plan.max_tokens, plan.max_context)
        self.limit = plan.prompt_len + drawn

    @property
    def length(self) -> int:
        """Tokens once the steps in flight are done, if none of them ends the sequence."""
        return len(self.tokens) + self.inflight
