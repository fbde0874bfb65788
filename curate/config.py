"""The configuration of a curation run: one frozen tree, read from YAML, unknown names refused."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from curate.grading.pool import LEAST_MB
from curate.models.asking import Sampling
from curate.models.opened import check_model_config, check_sampling
from curate.sources import AnySource
from engine.errors import InputError, refuse
from engine.struct_error import choices
from engine.struct_file import read_struct

Count = Annotated[int, Meta(ge=1)]
Seed = Annotated[int, Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the configuration."""


class Collect(Section, frozen=True):
    """Where the questions come from."""

    sources: Annotated[tuple[AnySource, ...], Meta(min_length=1)]
    """In the order of their priority: of two questions that are the same, the one of the earlier source stays."""


class Dedupe(Section, frozen=True):
    """When two questions are the same."""

    jaccard: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """Share of common word shingles from which two questions are near duplicates."""
    shingle: Count = 5
    """Words of a shingle."""
    permutations: Count = 128
    """Hashes of a question's MinHash signature, a multiple of `bands`."""
    bands: Count = 32
    """Of the signature; 128 permutations in 32 bands find 99.9 % of the pairs at 0.65 and above."""
    same_numbers: bool = True
    """Two questions are near duplicates only if their numbers are the same."""


class Evaluation(Section, frozen=True):
    """A set of evaluation questions: a file, or `heldout` questions of the families (seed 7 is the usual set)."""

    name: str
    """What evidence and tables call it."""
    path: str | None = None
    """The file; None: `heldout` is given."""
    field: str = "question"
    """Of the file: the column of the question."""
    heldout: Count | None = None
    """How many questions of the families."""
    seed: Seed = 7
    """Of those: which ones."""
    private: bool = False
    """Its text is never written into the evidence (GPQA)."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.heldout is None):
            raise InputError(f"evaluation set {self.name}: give either path or heldout")


class Decontaminate(Section, frozen=True):
    """When a question is too near to one that models are evaluated on."""

    against: tuple[Evaluation, ...] = ()
    rule: Literal["s1", "scored"] = "scored"
    """Which rule drops rows; the evidence of both is kept."""
    ngram: Count = 5
    """Words of an n-gram of rule `scored`; rule `s1` has 8."""
    common: Count = 5
    """An n-gram that so many different questions share says nothing."""
    coverage: float = 0.5
    """Share of an evaluation question's words inside shared rare n-grams."""
    least_words: int = 10
    """Covered words below which coverage does not count."""
    run: int = 20
    """Words in a row."""
    fuzzy: float = 95.0
    """Similarity, 0 to 100, of whole questions with the same numbers, for evaluation questions up to `short` words."""
    short: int = 40
    """Words of an evaluation question, at most, that `fuzzy` is asked about."""


class Asked(Section, frozen=True):
    """A model, as `curate.models.opened.open_model` takes it, and how its responses are drawn."""

    model: dict[str, Any]
    """The fields of EndpointConfig; or `model: engine:DIR` with those of EngineConfig and the `name` of LocalConfig."""
    sampling: Sampling = Sampling()


class Attempts(Section, frozen=True):
    """Which models try the questions, and how often."""

    models: Annotated[tuple[Asked, ...], Meta(min_length=1)]
    samples: Count = 1
    """Attempts of each model at a question."""


class Quality(Section, frozen=True):
    """What is thrown out by looks alone."""

    asy_exempt: tuple[str, ...] = ("AIME",)
    """Sources, by name, whose [asy] drawings are let through; as in `select`, those of the default may be absent."""
    page_reference: Literal["s1", "word"] = "word"
    """`s1`: any "p1." to "p999.", also inside "exp2."; `word`: only where p begins a word."""
    finished: bool = True
    """Drop traces that were cut by length."""
    reference: bool = False
    """Drop questions without a reference answer here and not as ungradable at `difficulty`."""
    longest_question: int = 20_000
    """Characters."""


class Grade(Section, frozen=True):
    """Who judges attempts, in how many processes, under which limits."""

    workers: Count = 1
    """Processes that grade."""
    time_limit_s: Annotated[float, Meta(gt=0)] = 5.0
    """Processor seconds of one comparison."""
    memory_limit_mb: Annotated[int, Meta(ge=LEAST_MB)] = 1024
    """Address space of a process, in MiB."""
    judge: Asked | None = None


class Difficulty(Section, frozen=True):
    """What happens to questions that no attempt could be graded on."""

    ungradable: Literal["drop", "keep"] = "drop"
    """Whether they are left out or stay."""


class Domain(Section, frozen=True):
    """Who sorts questions into subjects."""

    model: dict[str, Any] | None = None
    """None: TF-IDF against the subjects' descriptions, marked as fallback."""
    sampling: Sampling = Sampling()


class Select(Section, frozen=True):
    """How many questions stay, and how they are drawn."""

    mode: Literal["paper", "notebook", "random", "diverse", "longest", "full"] = "paper"
    """`paper`: domains drawn uniformly, long traces first; `notebook`: the code that made s1K; the rest are ablations:
    any questions, domains without regard to length, the longest traces, all."""
    count: Count = 1000
    """Questions that are selected."""
    pool: Literal["hard", "quality"] = "hard"
    """`hard`: what no model solved; `quality`: what passed `quality` (s1's ablations draw from it)."""
    seed_sources: tuple[str, ...] = ("GPQA", "AIME")
    """Sources, by name, of which right answers are taken before any draw. Names of the defaults, which are s1's, may be
    absent from `collect`; others must be there."""
    long_source: str = "MATH"
    """Source of which long traces are taken before any draw."""
    long_tokens: int = 5600
    """Taken too: right answers of `long_source` with a longer trace."""
    uniform_until: int = 700
    """Mode `notebook`: domains are drawn uniformly until so many are selected, then by benchmark weights."""
    weight_sources: tuple[str, str] = ("AIME", "GPQA")
    """Mode `notebook`: domain counts of the first, plus those of the second scaled to half the first's total."""
    fix_pool: bool = False
    """Mode `notebook`: take the seed picks out of the pools, so that no draw repeats one."""
    tokenizer: str | None = None
    """Directory of the tokenizer that measures traces; None: the counts of the model that wrote them."""


class Format(Section, frozen=True):
    """What the training file looks like."""

    tokenizer: str
    """Directory of tokenizer.json and the chat template of the model to be trained."""
    style: Literal["s1", "messages", "text"] = "s1"
    """`s1`: question, thinking, attempt; `messages`: a chat; `text`: the rendered conversation."""
    max_tokens: int | None = None
    """Longer samples are left out and counted; None: none are."""


class Report(Section, frozen=True):
    """What the page shows."""

    examples: int = 3
    """Dropped rows shown per rule."""
    title: str = "Curation report"
    """Heading of the page."""


class Ray(Section, frozen=True):
    """A cluster over which rows are spread; without it everything runs here."""

    address: str | None = None
    """Of the cluster; None: the one that RAY_ADDRESS names, or a new one on this machine."""
    batch_rows: int = 4096
    """Rows of one task."""


class Config(Section, frozen=True):
    """A whole run: one section a stage."""

    run: str
    """Folder of everything the run writes."""
    collect: Collect
    seed: Seed = 42
    """Of the draws of `select`."""
    dedupe: Dedupe = Dedupe()
    decontaminate: Decontaminate = Decontaminate()
    trace: Asked | None = None
    """None: no model is asked, and only the stages that need none are run, up to `quality`."""
    quality: Quality = Quality()
    attempt: Attempts | None = None
    """None: the run ends with `quality`."""
    grade: Grade = Grade()
    difficulty: Difficulty = Difficulty()
    domain: Domain = Domain()
    select: Select = Select()
    format: Format | None = None
    """None: the run ends with `select`."""
    report: Report = Report()
    ray: Ray | None = None
    """Run row-wise stages as Ray Data tasks; no result depends on it."""


def load_config(path: str | Path) -> Config:
    """Reads a configuration.

    Raises InputError, naming file and setting, for an unknown name, a wrong type or a missing file.
    """
    config = read_struct(path, Config)
    try:
        _check(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return config


def _check(config: Config) -> None:
    """What no section alone can know. Raises InputError naming the setting."""
    attempt, dedupe, domain = config.attempt, config.dedupe, config.domain
    labels = [source.label for source in config.collect.sources]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    asked = {f"attempt.models[{i}]": one for i, one in enumerate(attempt.models if attempt else ())}
    solvers = [str(one.model.get("name") or one.model.get("model")) for one in asked.values()]
    same = next((name for name in solvers if solvers.count(name) > 1), None)
    refuse(
        (not config.run.strip(), f"run is {config.run!r}; name the folder that the run writes"),
        (
            (attempt and config.trace is None) or (config.format and attempt is None),
            "attempt needs trace, and format needs both; give them, or stop earlier",
        ),
        (twice is not None, f"collect.sources: two sources are called {twice!r}; give one of them another name"),
        (same is not None, f"attempt.models: two models are called {same!r}; give one of them another name: in model"),
        (
            dedupe.permutations % dedupe.bands,
            f"dedupe.permutations is {dedupe.permutations}, which {dedupe.bands} bands do not divide; change either",
        ),
        (
            domain.model is None and domain.sampling != Sampling(),
            "domain.sampling is given and domain.model is not; give the model that is asked, or leave sampling out",
        ),
    )
    select, usual = config.select, Select()
    for setting, names, absent in (
        ("select.seed_sources", select.seed_sources, usual.seed_sources),
        ("select.long_source", (select.long_source,), (usual.long_source,)),
        ("select.weight_sources", select.weight_sources, usual.weight_sources),
        ("quality.asy_exempt", config.quality.asy_exempt, Quality().asy_exempt),
    ):
        for name in names:
            if name not in (*labels, *absent):
                raise InputError(f"{setting} names {name!r}, which is no source{choices(name, labels)}")
    sorter = None if domain.model is None else Asked(model=domain.model, sampling=domain.sampling)
    others = {"trace": config.trace, "grade.judge": config.grade.judge, "domain": sorter}
    for setting, one in (*asked.items(), *others.items()):
        if one is None:
            continue
        part = "model"
        try:
            check_model_config(one.model)
            part = "sampling"
            check_sampling(one.model, one.sampling)
        except InputError as error:
            raise InputError(f"{setting}.{part}: {error}") from error
