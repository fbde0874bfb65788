"""Many samples of one question, whose prompt is computed once, and what they vote for.

python examples/many_samples.py [MODEL]
"""

import sys
from collections import Counter

from engine import Engine, SamplingParams

QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"


def main() -> None:
    """Sixteen samples at two budgets, with the votes."""
    model = sys.argv[1] if len(sys.argv) > 1 else "s1-nano"
    with Engine(model) as engine:
        for budget in (32, 128):
            params = SamplingParams(
                n=16,
                temperature=1.5,
                seed=1,
                thinking_token_budget=budget,
                thinking_extensions=1,
                max_tokens=budget + 48,
            )
            (output,) = engine.generate([QUESTION], params)
            votes = Counter(sample.answer.strip() for sample in output.outputs)
            print(f"budget {budget}: {output.usage.completion_tokens} tokens in {output.timing.total_s:.2f} s")
            for answer, count in votes.most_common(4):
                print(f"{count:4} x {answer}")


if __name__ == "__main__":
    main()
