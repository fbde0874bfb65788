"""How long a model thinks, decided while it thinks: a budget that is moved, one more "Wait", and "answer now".

python examples/live_control.py [MODEL]
"""

import sys

from engine import Engine, Handle, SamplingParams

QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"


def watch(handle: Handle, after: int, then: str) -> None:
    """Print the thinking as it comes; once `after` tokens have come, do what `then` says."""
    steps = {
        "answer now": handle.end_thinking,
        "one more Wait": handle.extend,
        "budget 40": lambda: handle.set_budget(40),
        "nothing": lambda: None,
    }
    print(f"\n--- {then}, after {after} tokens")
    tokens = 0
    for delta in handle:
        tokens += len(delta.token_ids)
        if then in steps and tokens >= after:
            steps.pop(then)()
        if delta.output is not None:
            sample = delta.output.outputs[0]
            thought = sample.thinking
            print(f"{sample.reasoning}\n=> {sample.answer}")
            print(f"{thought.tokens} thinking tokens, {thought.extensions} extensions, ended: {thought.stop_reason}")


def main() -> None:
    """One question, four times."""
    model = sys.argv[1] if len(sys.argv) > 1 else "s1-nano"
    with Engine(model) as engine:
        for after, then in ((0, "nothing"), (10, "answer now"), (10, "budget 40"), (10, "one more Wait")):
            watch(engine.submit(QUESTION, SamplingParams(max_tokens=400)), after, then)


if __name__ == "__main__":
    main()
