"""Twenty natural prompts of 5 to 2,000 tokens: prose, code, mathematics, other languages, conversations."""

from pathlib import Path
from typing import Any

_LICENSE = (Path(__file__).resolve().parents[2] / "LICENSE").read_text()
_STORY = """The lighthouse keeper had not spoken to anyone for eleven days when the boat came. It was a small boat, \
painted green a long time ago, and it carried a woman with a box of letters on her knees. "You are hard to find," she \
said. He took the rope that she threw and tied it to the iron ring, and because he did not know what to say he asked \
her whether she wanted tea. The kettle was the loudest thing on the island. She put the letters on the table in order \
of their dates, the oldest on the left, and he saw that all of them were written in his own hand."""
_CODE = '''def merge_sort(values: list[int]) -> list[int]:
    """Return the values in ascending order."""
    if len(values) <= 1:
        return values
    middle = len(values) // 2
    left, right = merge_sort(values[:middle]), merge_sort(values[middle:])
    merged = []
    while left and right:
        merged.append(left.pop(0) if left[0] <= right[0] else right.pop(0))
    return merged + left + right


def test_merge_sort():
    assert merge_sort([]) == []
    assert merge_sort([3, 1, 2]) =='''
_HISTORY = [
    {"role": "system", "content": "You are a patient teacher. You answer in one short sentence."},
    {"role": "user", "content": "Why is the sky blue?"},
    {"role": "assistant", "content": "Because air scatters blue light more than red light."},
    {"role": "user", "content": "And why is the sunset red?"},
]

TEXTS = (
    "Once upon a time there",
    "The three primary colours are",
    "The recipe is simple. First, melt the butter in a pan. Then",
    "In 1969, for the first time in history, human beings",
    _STORY,
    "import numpy as np\n\ndef softmax(x):\n",
    _CODE,
    "SELECT name, COUNT(*) AS orders\nFROM customers\nJOIN orders USING (customer_id)\nGROUP BY",
    "Question: A train travels 60 miles in 1.5 hours. What is its average speed?\nAnswer: Let's think step by step.",
    "We want the roots of x^2 - 5x + 6 = 0. Factoring gives (x - 2)(x - 3) = 0, so",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Die Hauptstadt von Deutschland ist",
    "Le petit chat noir dort sur le tapis, et",
    "日本の首都は東京です。中国の首都は",
    "Привет! Меня зовут Анна, и я живу в",
    _LICENSE[:2500],
    _LICENSE[1000:10_600],
)
"""Continued as they are."""
CHATS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Write a haiku about the sea. 🌊"}],
    _HISTORY,
)
