"""Several processes train one stage through the command, as under torchrun."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pi05_train.checkpoint.run_state import steps_saved
from pi05_train.commands.main import main
from pi05_train.data.order.mixture import Mixture
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from tests.commands.conftest import Workspace
from tests.engine.forked import fork_ranks
from tests.engine.launched import run_ranks
from tests.synthetic import CARDS, flip, shard_path
from tests.trainer.logged import logged


def train(size: int, arguments: Sequence[str]) -> str:
    """What the ranks said to people."""
    ended = run_ranks(size, "-m", "pi05_train.commands.main", "train", *arguments)
    assert [process.returncode for process in ended] == [0] * size, "\n".join(p.stderr for p in ended)
    return "".join(process.stdout for process in ended)


def test_two_ranks_go_on_where_one_stopped(workspace: Workspace) -> None:
    """With the losses of one process, in the same run folder, and a damaged sample of either rank written down."""
    damage(workspace)
    alone, together = ([*workspace.overrides("posttrain"), f"run.folder={workspace.root / name}"] for name in "ab")
    for steps in ("run.steps=2", "run.steps=6"):
        assert main(["train", *alone, steps]) == 0
    assert main(["train", *together, "run.steps=2"]) == 0
    said = train(2, [*together, "run.steps=6", "engine=fsdp2", "engine.precision=fp32"])
    assert said.count("step 6/6") == 1
    assert steps_saved(workspace.root / "b") == steps_saved(workspace.root / "a")
    for got, expected in zip(logged(workspace.root / "b"), logged(workspace.root / "a"), strict=True):
        assert got == pytest.approx(expected, rel=1e-4)
    records = [(workspace.root / name / "quarantine.jsonl").read_text().splitlines() for name in "ab"]
    assert sorted(records[0]) == sorted(records[1])
    assert len(records[0]) > 1


@pytest.mark.slow
def test_any_engine_on_any_number_of_ranks_goes_on(workspace: Workspace) -> None:
    """3, 2, 2, 1, 2 ranks in turn, each from the last one's checkpoint: the batches and losses of one process."""
    turns = [
        (3, ["engine=fsdp2"]),
        (2, ["engine=ddp"]),
        (2, ["engine=hsdp", "engine.shard_ranks=2"]),
        (1, ["engine=single"]),
        (2, ["engine=fsdp2"]),
    ]
    alone, together = ([*workspace.overrides("posttrain"), f"run.folder={workspace.root / name}"] for name in "ab")
    assert main(["train", *alone, f"run.steps={2 * len(turns)}"]) == 0
    for done, (size, engine) in enumerate(turns, start=1):
        steps = [*engine, "engine.precision=fp32", f"run.steps={2 * done}"]
        if size == 1:
            assert main(["train", *together, *steps]) == 0
        else:
            train(size, [*together, *steps])
    got, expected = logged(workspace.root / "b"), logged(workspace.root / "a")
    assert [row["step"] for row in got] == list(range(2 * len(turns)))
    for of_many, of_one in zip(got, expected, strict=True):
        assert of_many == pytest.approx(of_one, rel=1e-4)


def damage(workspace: Workspace) -> None:
    """Spoils every other sample of toy_arm."""
    card = CARDS["toy_arm"]
    mixture = Mixture.open(MixtureConfig("one", {card.name: SourceEntry(card, 1.0)}), workspace.data, split=None)
    index = mixture.indexes[card.name]
    for row in range(0, len(index), 2):
        flip(shard_path(index, row), int(index.records["offset"][row]) + 700)


def test_a_batch_that_ranks_cannot_share_is_refused_once(workspace: Workspace) -> None:
    overrides = workspace.overrides("pretrain", "engine=ddp", "data.global_batch_samples=5")
    ended = fork_ranks(2, "-m", "pi05_train.commands.main", "train", *overrides)
    sentence = "data.global_batch_samples: got 5 over 2 ranks, expected a multiple of the number of ranks"
    assert sum(process.stderr.count(sentence) for process in ended) == 1
    assert all(process.returncode != 0 for process in ended)
    assert not (workspace.root / "pretrain").exists()
