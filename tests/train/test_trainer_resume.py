"""Interruptions: kill -9 at a step and inside a save, SIGTERM, a full disk, a foreign checkpoint. Real processes."""

import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.errors import InputError
from tests.train.support import (
    ROOT,
    command,
    environment,
    start,
    trainer,
    trajectory,
    write_config,
    write_model,
    write_tokens,
)
from train.architecture import Architecture
from train.errors import TrainingError
from train.parallel import World

LENGTHS = [31, 7, 22, 15, 40, 9, 18, 26, 12, 33] * 2


def steps_done(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def unfinished(run: Path) -> list[Path]:
    return [p for p in (run / "checkpoints").glob("step-*") if not (p / "complete.json").exists()]


def interrupt(process: subprocess.Popen[str], when: Callable[[], bool], how: signal.Signals) -> None:
    """Waits until `when` holds in the stopped process, then signals it; it must not have ended before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before it was interrupted: {process.communicate()[1][-2000:]}"
        if when():
            # Freeze it first: between looking and killing, the moment would pass.
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            if when():
                process.send_signal(how)
                process.send_signal(signal.SIGCONT)
                process.communicate()
                return
            process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    process.kill()
    process.communicate()
    pytest.fail("the moment to interrupt never came")


@pytest.fixture
def long_run(tmp_path: Path) -> tuple[Path, Path]:
    """One run, to be left alone and to be interrupted: 60 steps in 12 epochs, a save every second step."""
    model = write_model(tmp_path / "model", hidden=96, intermediate=256, layers=3)
    data = write_tokens(tmp_path / "data.jsonl", LENGTHS)
    tree = {"epochs": 12, "checkpoint": {"every": 2}, "optim": {"lr": 1e-3}}
    return tuple(write_config(tmp_path / f"{name}.yaml", model, data, **tree) for name in ("unbroken", "broken"))  # type: ignore


@pytest.mark.slow
def test_killed_runs_end_bit_for_bit_like_the_unbroken_one(long_run: tuple[Path, Path]) -> None:
    """T7: kill -9 at a step and in a save, twice, and SIGTERM, then the end; tests/faults has the single moments."""
    unbroken, broken = long_run
    run = broken.with_suffix("")
    trainer(unbroken).fit()
    expected = trajectory(unbroken.with_suffix(""))
    assert len(expected) == 60

    at = random.randrange(6, 11)
    interrupt(start(command(broken)), lambda: steps_done(run) >= at, signal.SIGKILL)
    reached = steps_done(run)
    assert reached < 60
    interrupt(start(command(broken)), lambda: steps_done(run) > 12 and bool(unfinished(run)), signal.SIGKILL)
    assert unfinished(run), "killed inside a save: its folder has no marker"
    at = random.randrange(18, 24)
    interrupt(start(command(broken)), lambda: steps_done(run) >= at, signal.SIGKILL)
    interrupt(start(command(broken)), lambda: steps_done(run) > 25 and bool(unfinished(run)), signal.SIGKILL)
    assert unfinished(run)
    process = start(command(broken))
    interrupt(process, lambda: steps_done(run) >= 35, signal.SIGTERM)
    assert process.returncode == 0, "SIGTERM saves and exits 0"
    stopped = steps_done(run)
    assert stopped < 60 and (run / "checkpoints" / f"step-{stopped:08d}" / "complete.json").exists()
    trainer(broken).fit()
    assert trajectory(run) == expected
    files = [folder / "export" / "model-00001-of-00001.safetensors" for folder in (run, unbroken.with_suffix(""))]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(list((run / "checkpoints").iterdir())) <= 3, "two are kept, and at most one that was never finished"


def test_sigterm_during_a_reduction_is_not_lost(tmp_path: Path) -> None:
    """The signal comes when this step's word on stopping is already given: the next step carries it."""

    class Signalled(World):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().sum(values)

    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    run = trainer(write_config(tmp_path / "run.yaml", model, data, epochs=2))
    run.world = Signalled(**vars(run.world))
    run.fit()
    assert steps_done(tmp_path / "run") == 2
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "complete.json").exists()


def test_fewer_epochs_than_were_trained_are_refused(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config = write_config(tmp_path / "run.yaml", model, data, epochs=2)
    trainer(config).fit()
    with pytest.raises(TrainingError, match="trained for 10 steps, more than the 5 of this configuration"):
        trainer(config, "epochs=1").fit()


OTHER = (
    ("optim.lr=1e-3", r"optim\.lr = 0\.01, not 0\.001"),
    ("optim.betas=[0.8,0.9]", r"optim\.betas = \(0\.9, 0\.95\), not \(0\.8, 0\.9\)"),
    ("optim.warmup=0.5", r"optim\.warmup = 0\.05, not 0\.5"),
    ("optim.weight_decay=0.1", r"optim\.weight_decay = 0\.0001, not 0\.1"),
    ("optim.clip=2", r"optim\.clip = 1\.0, not 2\.0"),
)


@pytest.mark.parametrize("exported", [True, False])
def test_a_finished_run_has_the_settings_it_was_trained_with(exported: bool, tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config, run = write_config(tmp_path / "run.yaml", model, data), tmp_path / "run"
    trainer(config).fit()
    if not exported:
        (run / "export" / "README.md").unlink()
    before = (run / "config.yaml").read_bytes(), (run / "metrics.jsonl").read_bytes()
    for override, message in OTHER:
        with pytest.raises(
            TrainingError, match=rf"is the last step, and was trained with {message}; use another `run`"
        ):
            trainer(config, override).fit()
    assert before == ((run / "config.yaml").read_bytes(), (run / "metrics.jsonl").read_bytes())
    assert trainer(config, "metrics.every=2", "checkpoint.keep=1", "parallel.micro_tokens=64").fit()
    assert "| learning rate | 0.01, " in (run / "export" / "README.md").read_text()


def test_settings_that_change_on_the_way_are_told_by_the_step(tmp_path: Path) -> None:
    """Nothing forbids another rate for the rest of a run; the card then says which steps had which."""
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config = write_config(tmp_path / "run.yaml", model, data, checkpoint={"every": 1})
    for override in ("optim.lr=0.02", "optim.lr=0.03", "optim.lr=0.03"):
        run = trainer(config, override)
        run.told_to_stop = True
        assert not run.fit()
    assert trainer(config, "optim.lr=0.03", "optim.clip=0.5", "epochs=2").fit()
    said = (tmp_path / "run" / "export" / "README.md").read_text()
    rest = "warm-up 0.05 of the steps, cosine to 0"
    for row in (
        f"| learning rate | 0.02, {rest}; from step 2 on 0.03, {rest} |",
        "| gradient clipping | 1; from step 4 on 0.5 |",
        "| epochs | 1; from step 4 on 2 |",
        "| weight decay | 0.0001 |",
    ):
        assert row in said, row
    stopped = trainer(config, f"run={tmp_path}/two", "epochs=2")
    stopped.told_to_stop = True
    assert not stopped.fit()
    marker = next((tmp_path / "two").glob("checkpoints/*/complete.json"))
    whole = json.loads(marker.read_text())
    for spans in (
        3,
        [{"begin": 0}],
        [{"begin": 0, "settings": {"epochs": "x"}}],
        [{"begin": 0, "settings": {"u": {}}}],
    ):
        marker.write_text(json.dumps(whole | {"spans": spans}))
        with pytest.raises(TrainingError, match=r"complete\.json: its spans are damaged; remove"):
            trainer(config, f"run={tmp_path}/two", "epochs=2").fit()
    marker.write_text(json.dumps({name: value for name, value in whole.items() if name != "spans"}))
    assert trainer(config, f"run={tmp_path}/two", "epochs=2").fit()


def test_torn_last_line_of_metrics_is_redone(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config = write_config(tmp_path / "run.yaml", model, data, epochs=2, checkpoint={"every": 3})
    trainer(config).fit()
    expected = trajectory(tmp_path / "run")
    # As if the machine had died in step 8, two steps behind the checkpoint of step 6.
    for late in ("step-00000009", "step-00000010"):
        if (tmp_path / "run" / "checkpoints" / late).exists():
            (tmp_path / "run" / "checkpoints" / late / "complete.json").unlink()
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:7]) + lines[7][:20])
    trainer(config).fit()
    assert trajectory(tmp_path / "run") == expected


def test_asynchronous_saves_resume_alike(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", hidden=256, intermediate=512)  # large enough to be written for a while
    data = write_tokens(tmp_path / "data.jsonl", LENGTHS)
    plain = write_config(tmp_path / "plain.yaml", model, data, epochs=2)
    late = write_config(tmp_path / "late.yaml", model, data, epochs=2, checkpoint={"asynchronous": True, "every": 2})
    trainer(plain).fit()
    first = trainer(late)
    first.told_to_stop = True
    first.fit()
    trainer(late).fit()
    assert trajectory(tmp_path / "late") == trajectory(tmp_path / "plain")
    markers = sorted((tmp_path / "late" / "checkpoints").glob("*/complete.json"))
    assert [json.loads(m.read_text())["step"] for m in markers] == [8, 10]
    # What was written while step 9 changed the weights is the state behind step 8.
    markers[1].unlink()
    trainer(late).fit()
    assert trajectory(tmp_path / "late") == trajectory(tmp_path / "plain")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_full_disk_leaves_the_last_checkpoint(tmp_path: Path, asynchronous: bool) -> None:
    """The system refuses to write (a file size limit stands for the full disk); one line says what is left."""
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config = write_config(
        tmp_path / "run.yaml", model, data, epochs=2, checkpoint={"every": 3, "asynchronous": asynchronous}
    )
    whole = write_config(tmp_path / "whole.yaml", model, data, epochs=2, checkpoint={"every": 3})
    trainer(whole).fit()
    run = trainer(config)
    step = run.train_step

    def fill_the_disk(at: int) -> dict:
        if at == 4:
            while not (tmp_path / "run" / "checkpoints" / "step-00000003" / ".metadata").exists():
                time.sleep(0.01)  # an asynchronous save of step 3 is still under way
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        return step(at)

    run.train_step = fill_the_disk  # type: ignore[method-assign]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(TrainingError, match=r"saving step 6 .*File too large.*step 3 is intact") as error:
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    last = trainer(config)
    export = last.export

    def fill_it_again() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        export()

    last.export = fill_it_again  # type: ignore[method-assign]
    try:
        with pytest.raises(TrainingError, match=r"writing .*export failed: .*File too large.*make room"):
            last.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "run").glob("export*"))
    trainer(config).fit()  # nothing is left to train; the export is made
    assert (tmp_path / "run" / "export" / "config.json").exists()
    assert trajectory(tmp_path / "run") == trajectory(tmp_path / "whole")


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    other = write_model(tmp_path / "other", layers=3)
    config = write_config(tmp_path / "run.yaml", model, data)
    trainer(config).fit()
    cases = {
        f"model.path={other}": "of another model: num_layers was 2, is 3",
        "seed=7": "seed was 42, is 7",
        "data.batch_size=5": "batch_size was 4, is 5",
        "checkpoint.resume=false": "already holds a run",
    }
    write_tokens(tmp_path / "more.jsonl", [9, 8, 7, 6])
    cases[f"data.train=[{tmp_path}/more.jsonl]"] = "data was"
    for override, message in cases.items():
        with pytest.raises(TrainingError, match=message):
            trainer(config, override).fit()
    marker = max((tmp_path / "run" / "checkpoints").glob("step-*/complete.json"))
    about = json.loads(marker.read_text())
    marker.write_text(json.dumps(about | {"architecture": about["architecture"] | {"later": 1}}))
    with pytest.raises(TrainingError, match="of another model: later was 1, is None"):
        trainer(config).fit()
    wrong = json.loads((model / "config.json").read_text()) | {"intermediate_size": 64}
    (model / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(TrainingError, match=r"gate_proj.weight has shape \(48, 32\), config.json asks for \(64, 32\)"):
        trainer(config, f"run={tmp_path}/new")


def test_a_torn_checkpoint_is_named(tmp_path: Path) -> None:
    """Its marker, or a shard: with the way on, and without a traceback."""
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    config = write_config(tmp_path / "run.yaml", model, data)
    trainer(config).fit()
    marker = max((tmp_path / "run" / "checkpoints").glob("step-*/complete.json"))
    (marker.parents[1] / "step-last").mkdir()
    (marker.parents[1] / "step-last" / marker.name).touch()  # nobody's
    whole = marker.read_text()
    wrong = {"0": "holds int, not a JSON object", '{"architecture": 3}': "of another model: ", "{": "not JSON"}
    for text, message in wrong.items():
        marker.write_text(text)
        with pytest.raises(InputError, match=message):
            trainer(config).fit()
    marker.write_text(whole)
    shard = next(marker.parent.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"step-0+\d+ cannot be read: .*; remove that folder, and the same command"):
        trainer(config).fit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"architectures is \['GPT2LMHeadModel'\]; supported are"),
        ({"architectures": ["Qwen2ForProcessRewardModel"]}, "a reward model; what is trained here is a language model"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; give an object"),
        ({"rope_scaling": {"type": "dynamic"}}, "RoPE kind is 'dynamic'"),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}, "sliding-window attention"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"rope_theta": 10**400}, "rope_theta is <a whole number of about 401 digits>"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"hidden_size": "64"}, "hidden_size is '64'; give a whole number from 1 to"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers is 2147483648; give a whole number from 1 to"),
        ({"vocab_size": 7.0}, "vocab_size is 7.0; give a whole number from 1 to"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"initializer_range": float("inf")}, "initializer_range is inf"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; give true or false"),
    ],
)
def test_a_shape_that_cannot_be_trained_is_named(tmp_path: Path, change: dict, message: str) -> None:
    config = write_model(tmp_path / "model") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rope_parameters": None} | change))
    with pytest.raises(InputError, match=message) as caught:
        Architecture.load(config)
    assert str(config) in str(caught.value)


@pytest.mark.parametrize("from_weights", [True, False])
def test_a_model_beyond_memory_is_refused_before_it_is_made(tmp_path: Path, from_weights: bool) -> None:
    """A few bytes of config.json ask for a hundred terabytes; the tensors beside it may say otherwise."""
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS)
    large = {"hidden_size": 2**16, "intermediate_size": 2**18, "num_hidden_layers": 512, "num_attention_heads": 512}
    (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()) | large))
    config = write_config(tmp_path / "config.yaml", model, data)
    override = () if from_weights else ("model.path=null", f"model.init={model}/config.json")
    with pytest.raises(TrainingError, match=r"config.json describes a model whose weights, .* take [\d.]+ GB, and"):
        trainer(config, *override)


@torch.compiler.set_stance("force_eager")
def test_eight_bit_adam_resumes_bit_for_bit(tmp_path: Path) -> None:
    """torchao's optimiser compiles one kernel per shape; here the same code runs uncompiled."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    model, data = (
        write_model(tmp_path / "model", hidden=64, intermediate=96),
        write_tokens(tmp_path / "data.jsonl", LENGTHS),
    )
    unbroken = write_config(tmp_path / "unbroken.yaml", model, data, optim={"kind": "adamw8bit"})
    broken = write_config(tmp_path / "broken.yaml", model, data, optim={"kind": "adamw8bit"})
    trainer(unbroken).fit()
    first = trainer(broken)
    first.told_to_stop = True
    first.fit()
    states = [v for s in first.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert any("8bit" in type(v).__name__ for v in states), "no state is 8-bit: the tensors are too small to tell"
    trainer(broken).fit()
    assert trajectory(tmp_path / "broken") == trajectory(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_restarts_a_killed_rank(long_run: tuple[Path, Path]) -> None:
    """`torchrun --max-restarts`: one of two ranks is killed at a step and in a save; the end is the unbroken one."""
    unbroken, broken = long_run
    subprocess.run(command(unbroken, ranks=2), cwd=ROOT, env=environment(), check=True, capture_output=True)
    arguments = command(broken, ranks=2)
    process = start([*arguments[:3], "--max-restarts", "2", *arguments[3:]])
    run = broken.with_suffix("")
    reached = 0
    try:
        for in_a_save in (False, True):
            while not (steps_done(run) > reached + 8 and (not in_a_save or unfinished(run))):
                assert process.poll() is None, process.communicate()[1][-2000:]
                time.sleep(0.001)
            child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1]
            os.kill(int(child), signal.SIGKILL)
            while Path(f"/proc/{child}").exists():
                time.sleep(0.001)
            reached = steps_done(run)
        _, errors = process.communicate(timeout=250)
    finally:
        process.terminate()
    assert process.returncode == 0, errors[-3000:]
    assert errors.count("resuming after step") == 2
    assert trajectory(run) == trajectory(unbroken.with_suffix(""))
