"""GSM8K's training questions as s1's training file: the written solutions are the traces.

    python -m models.smollm2_s1.traces

Questions too near to one of the test set are dropped by `curate.selection.decontaminate`, samples are written by
`curate.stages.formatting`; only what a trace says is made here. Every choice is a hash of seed and question, so a
larger `count` holds the smaller one's questions.
"""

import ast
import hashlib
import json
import operator
import re
import sys
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import polars as pl

from bench.evaluation.files import data_folder
from curate.config import Decontaminate, Evaluation, Format
from curate.selection.decontaminate import decontaminate, load_evaluations
from curate.sources.mathematics import GSM8K
from curate.stages.collect import collect_source
from curate.stages.formatting import formatted
from engine.command.flags import read_flags
from engine.errors import InputError, tell
from engine.rows_file import read_rows
from engine.whole_file import write_whole

WAITS = ((0.5, 0), (0.8, 1), (1.0, 2))
"""Half of the traces check nothing, three in ten one calculation, two in ten two."""
_STEP = re.compile(r"<<([-+*/(). 0-9]{1,100})=(-?[.0-9]{1,30})>>")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


@dataclass(frozen=True)
class Arguments:
    """Where the questions are, and how many of them become which file."""

    tokenizer: Path = Path("runs/SmolLM2-135M-Instruct")
    """Folder of the model that is trained: its tokenizer and chat template."""
    out: Path = Path("runs/smollm2_s1/data")
    """Folder of train.jsonl, heldout.jsonl and counts.json."""
    train: Path | None = None
    """GSM8K's train.jsonl; None: gsm8k/train.jsonl in the data folder (the environment's S1_DATA)."""
    test: Path | None = None
    """GSM8K's test.jsonl, likewise."""
    count: int | None = 1536
    """Samples of train.jsonl; None: all there are."""
    heldout: int = 64
    """Samples of heldout.jsonl, none of which is trained on."""
    max_tokens: int = 400
    """Longer samples are left out."""
    seed: int = 20


@dataclass(frozen=True)
class Step:
    """A calculation of a solution: 48/2 = 24."""

    left: str
    result: str

    @property
    def right(self) -> bool:
        """Whether what the annotation says is so, to the digits that it gives."""
        try:
            found, said = value(self.left), Fraction(self.result)
        except (ValueError, SyntaxError, ZeroDivisionError):
            return False
        digits = len(self.result.partition(".")[2])
        return found == said or (digits > 0 and abs(found - said) <= Fraction(1, 2 * 10**digits))


def value(expression: str) -> Fraction:
    """What numbers, + - * / and brackets come to, exactly. Raises ValueError or SyntaxError for anything else,
    ZeroDivisionError for a division by zero."""

    def of(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](of(left), of(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -of(operand)
            case ast.Constant(int() | float() as number):
                return Fraction(str(number))
        raise ValueError(f"{expression!r} is no calculation")

    return of(ast.parse(expression.strip(), mode="eval").body)


def steps(answer: str) -> list[Step]:
    """The annotated calculations of a solution, each once, in its order."""
    return list(dict.fromkeys(Step(left.strip(), result.strip()) for left, result in _STEP.findall(answer)))


def drawn(seed: int, purpose: str, qid: str) -> float:
    """A number from 0 to 1 that is the question's own."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{purpose}|{qid}".encode()).digest()[:8]) / 2**64


def trace(solution: str, answer: str, seed: int, qid: str) -> tuple[str, int]:
    """(the trace, its "Wait"s): a solution without annotations, and below it a line for each calculation checked, from
    the last one on. `answer` is the annotated solution. What an annotation says wrongly is not checked."""
    wanted = next(n for limit, n in WAITS if drawn(seed, "waits", qid) < limit)
    sure = [step for step in reversed(steps(answer)) if step.right][:wanted]
    return "\n".join([solution.strip(), *(f"Wait, let me check: {s.left} = {s.result}. Yes." for s in sure)]), len(sure)


def build(arguments: Arguments) -> dict[str, object]:
    """Writes both files; returns what counts.json says. Raises InputError naming the file that cannot be used."""
    train = arguments.train or data_folder() / "gsm8k" / "train.jsonl"
    test = arguments.test or data_folder() / "gsm8k" / "test.jsonl"
    questions, read = collect_source(GSM8K(path=str(train)), lambda rows: None)
    written = [row for _, row in read_rows(train)]
    annotated = {row: str(written[row - 1]["answer"]) for row in questions["source_row"]}
    evaluations = load_evaluations((Evaluation("GSM8K test", path=str(test)),))
    decided, _ = decontaminate(questions, evaluations, Decontaminate())
    clean = questions.join(decided.filter("keep").select("row_id"), on="row_id", how="semi", maintain_order="left")
    made = [
        trace(solution, annotated[number], arguments.seed, qid)
        for solution, number, qid in clean.select("solution", "source_row", "qid").iter_rows()
    ]
    rows = clean.with_columns(
        pl.Series("thinking", [text for text, _ in made]),
        pl.Series("waits", [waits for _, waits in made]),
        pl.Series("rank", [drawn(arguments.seed, "order", qid) for qid in clean["qid"]]),
        pl.col("answer").alias("attempt"),
        pl.lit("grade school").alias("domain"),
    ).sort("rank")
    said, samples, lines = formatted(rows, Format(str(arguments.tokenizer), max_tokens=arguments.max_tokens))
    kept = rows.with_columns(samples.select("tokens", "trained")).filter(said["keep"])
    files = lines.splitlines(keepends=True)
    ends = [arguments.heldout, arguments.heldout + arguments.count if arguments.count is not None else len(files)]
    if not 0 <= ends[0] < ends[1] <= len(files):
        raise InputError(
            f"--heldout {ends[0]:,} and --count {ends[1] - ends[0]:,} of {len(files):,} samples: give at least "
            "0 and 1, and no more together than there are"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out / "heldout.jsonl", b"".join(files[: ends[0]]))
    write_whole(arguments.out / "train.jsonl", b"".join(files[ends[0] : ends[1]]))
    used = kept[ends[0] : ends[1]]
    every = [step for answer in annotated.values() for step in steps(answer)]
    counts: dict[str, object] = {
        "rows": read.height,
        "questions": questions.height,
        "test_questions": evaluations.height,
        "near_test_questions": questions.height - clean.height,
        "too_long": rows.height - kept.height,
        "heldout": ends[0],
        "train": used.height,
        "tokens": int(used["tokens"].sum()),
        "trained_tokens": int(used["trained"].sum()),
        "waits": {str(n): count for n, count in sorted(Counter(used["waits"]).items())},
        "calculations": len(every),
        "calculations_not_as_said": sum(not step.right for step in every),
    }
    write_whole(arguments.out / "counts.json", json.dumps(counts, indent=2) + "\n")
    return counts


def main(argv: list[str] | None = None) -> int:
    """Exit code 2, with a line that says why, where the data cannot be made."""
    try:
        print(json.dumps(build(read_flags(Arguments, argv, "python -m models.smollm2_s1.traces", __doc__)), indent=2))
    except (InputError, OSError) as error:
        tell(error if isinstance(error, InputError) else InputError(f"the data cannot be written: {error}"))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
