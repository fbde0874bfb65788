"""Sources of questions: one's own, one adapter for each of s1's sixteen, GSM8K, and sets that are generated."""

from curate.sources.base import Draft, Info, RowError, Skip, Source
from curate.sources.language import AGIEval, Crossword
from curate.sources.mathematics import (
    AIME,
    GSM8K,
    Math,
    NuminaMath,
    OlympiadBench,
    OmniMath,
    S1Prob,
    S1Teasers,
    TheoremQA,
)
from curate.sources.own import Own
from curate.sources.probability import Probability
from curate.sources.procedural import Procedural
from curate.sources.science import GPQA, USACO, JEEBench, LiveCodeBench, OlympicArena, SciEval
from curate.sources.teasers import Teasers

PAPER = (
    NuminaMath,
    Math,
    OlympicArena,
    OmniMath,
    AGIEval,
    Crossword,
    OlympiadBench,
    AIME,
    TheoremQA,
    USACO,
    JEEBench,
    GPQA,
    SciEval,
    S1Prob,
    LiveCodeBench,
    S1Teasers,
)
"""The sixteen sources of the paper, in the order of its table."""

AnySource = (
    Own
    | NuminaMath
    | Math
    | OlympicArena
    | OmniMath
    | AGIEval
    | Crossword
    | OlympiadBench
    | AIME
    | TheoremQA
    | USACO
    | JEEBench
    | GPQA
    | SciEval
    | S1Prob
    | LiveCodeBench
    | S1Teasers
    | GSM8K
    | Procedural
    | Probability
    | Teasers
)
"""What a configuration may name under `adapter`."""

__all__ = ["PAPER", "AnySource", "Draft", "Info", "RowError", "Skip", "Source"]
