"""What two ranks do for test_trainer_ranks.py, all in one pair of processes: `torchrun ... two_ranks.py FOLDER`.

Results go to FOLDER/results.json; the pytest process has put the configuration and its own gradients there.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests.train.support import relative, trainer
from train.data import step_samples
from train.errors import TrainingError
from train.parallel import leave_world
from train.sft import Trainer

LAYOUTS = {
    "data parallel": [],
    "data parallel, 2 x (4 + 4)": ["parallel.micro_tokens=90"],
    "data parallel, full checkpointing": ["compute.checkpointing=full"],
    "context parallel": ["parallel.context=2"],
    "context parallel, selective checkpointing": ["parallel.context=2", "compute.checkpointing=selective"],
    "context parallel, micro-batches": ["parallel.context=2", "parallel.micro_tokens=60"],
}


COMBINED = {
    "sample_mean": LAYOUTS,
    "token_mean": {name: LAYOUTS[name] for name in ("data parallel, 2 x (4 + 4)", "context parallel, micro-batches")},
}
"""By reduction; the second one where sums of ranks and micro-batches meet."""


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def first_step(run: Trainer) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and whole gradients of step 0, and its number of micro-batches."""
    samples = step_samples(run.config.seed, 0, len(run.data), run.config.data)
    layout = run.lay_out(run.data, samples)
    loss = run.world.sum(run.backward(samples, layout))
    return float(loss), {name: whole(p.grad) for name, p in run.model.named_parameters()}, layout.micro_batches


def compare(folder: Path) -> dict[str, list[float]]:
    results = {}
    for reduction, layouts in COMBINED.items():
        reference = torch.load(folder / f"{reduction}.pt")
        for name, overrides in layouts.items():
            run = trainer(folder / "gradients.yaml", f"reduction={reduction}", *overrides)
            loss, gradients, micro = first_step(run)
            worst = max(relative(gradients[key], reference["gradients"][key]) for key in gradients)
            results[f"{reduction}, {name}"] = [abs(loss - reference["loss"]) / reference["loss"], worst, micro]
    return results


def poisoned(folder: Path) -> dict[str, object]:
    """Trains into a sample whose embedding is not a number, held by one of the ranks, until all stop."""
    run = trainer(folder / "poison.yaml")
    message = ""
    try:
        run.fit()
    except TrainingError as error:
        message = str(error)
    harmed = sum(not torch.isfinite(whole(p)).all() for p in run.model.parameters())
    messages: list[str | None] = [None, None]
    dist.all_gather_object(messages, message)
    return {"messages": messages, "harmed": int(harmed)}


def main(folder: Path) -> None:
    results: dict[str, object] = {"layouts": compare(folder)}
    trainer(folder / "up.yaml").fit()  # begun by one process
    down = trainer(folder / "down.yaml")  # to be finished by one process
    down.told_to_stop = dist.get_rank() == 1  # one rank alone was told to stop; all do, after one step
    down.fit()
    results["poison"] = poisoned(folder)
    trainer(folder / "lora.yaml").fit()
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    leave_world()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
