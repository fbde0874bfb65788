"""How a question is asked: named templates, and the instruction that conditional control appends."""

from typing import Literal

from bench.evaluation.tasks import Problem
from curate.grading.grade import Item
from curate.options import with_options

PromptName = Literal["s1", "lm_eval", "evalchemy", "boxed", "simple_evals"]


def question_text(problem: Problem) -> str:
    """The question, with its options where it has any."""
    return with_options(problem.question, problem.options)


def user_message(problem: Problem, prompt: PromptName, suffix: str = "") -> str:
    """What the user says.

    `s1` is the question and nothing else, as the paper's models were trained and evaluated; the other templates have
    the wording of the harness that they are named after. `suffix` is conditional control's instruction, a blank line
    below.
    """
    text = question_text(problem)
    letter = bool(problem.options)
    match prompt:
        case "lm_eval":
            text = f"Question: {text}\nAnswer:"
        case "evalchemy":
            text = f"Problem: {text}\nMark your solution with \\boxed\nAnswer:"
        case "boxed":
            what = "the letter of your answer" if letter else "your final answer"
            text = f"{text}\n\nPlease reason step by step, and put {what} within \\boxed{{}}."
        case "simple_evals":
            name, what = (
                ("$LETTER", "one of the letters of the options") if letter else ("$ANSWER", "the answer to the problem")
            )
            text = (
                f"{text}\n\nSolve it step by step. The last line of your response should be of the form "
                f"Answer: {name} (without quotes) where {name} is {what}."
            )
    return f"{text}\n\n{suffix}" if suffix else text


def item_of(problem: Problem, text: str) -> Item:
    """A response to a problem, for the grader."""
    return Item(text, problem.reference, problem.kind, question_text(problem), problem.family, problem.options)
