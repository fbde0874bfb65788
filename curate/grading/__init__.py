"""Whether an answer is right: found in a response, compared by rule or judge, in processes that can be killed."""

from curate.grading.grade import AnswerKind, Grade, Grader, Item

__all__ = ["AnswerKind", "Grade", "Grader", "Item"]
