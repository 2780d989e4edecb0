"""`simulate`: shards that satisfy their cards, the same bytes for the same settings."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pi05_train.errors import UserError
from pi05_train.resources import resource
from pi05_train.samples.card import SourceCard, check_card
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample
from pi05_train.simulation import simulate as module
from pi05_train.simulation.plans import plan_episodes
from pi05_train.simulation.settings import SOURCES, SimulationSettings
from pi05_train.simulation.simulate import SourceCounts, simulate
from pi05_train.tokenization.fast import fit_fast_tokenizer

TINY = SimulationSettings(
    image_size=24,
    fetch_episodes=3,
    metaworld_episodes=2,
    aloha_episodes=2,
    web_samples=32,
    anchor_stride=6,
    samples_per_shard=7,
    workers=1,
)


Simulated = tuple[Path, dict[str, SourceCounts], list[int]]


def read(folder: Path) -> list[Sample]:
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                key, extension = member.name.split(".", 1)
                content = archive.extractfile(member)
                assert content is not None
                samples.setdefault(key, {})[extension] = content.read()
    return [parse_sample(members) for members in samples.values()]


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*.tar"))}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    root = tmp_path_factory.mktemp("simulated")
    seen: list[int] = []
    counts = simulate(root, settings=TINY, progress=lambda done, total, _: seen.append(done - total))
    return root, counts, seen


@pytest.mark.parametrize("source", SOURCES)
def test_every_sample_is_what_its_card_declares(simulated: Simulated, source: str) -> None:
    root, counts, _ = simulated
    card = SourceCard(**yaml.safe_load((resource("data_mixtures") / "source" / f"{source}.yaml").read_text()))
    check_card(card)
    assert card.shards == card.name == source
    samples = read(root / source)
    assert len(samples) == counts[source].samples > 0
    for sample in samples:
        check_sample(sample, card)
        assert sample.provenance


def test_progress_ends_at_the_total(simulated: Simulated) -> None:
    _, _, seen = simulated
    assert seen == sorted(seen)
    assert seen[-1] == 0


def test_counts_tell_failed_episodes(simulated: Simulated) -> None:
    root, counts, _ = simulated
    assert [counts[source].episodes for source in ("sim_fetch", "sim_metaworld", "sim_aloha")] == [3, 2, 2]
    for source in ("sim_fetch", "sim_metaworld", "sim_aloha"):
        failed = {sample.episode for sample in read(root / source) if not sample.success}
        assert len(failed) == counts[source].episodes - counts[source].successes
    assert counts["sim_aloha"].successes == 1, "one of two experts is misled"


def test_an_episode_is_held_out_whole_in_every_source_it_feeds(simulated: Simulated) -> None:
    root, _, _ = simulated
    splits: dict[str, set[str]] = {}
    for source in ("sim_fetch", "sim_subtasks", "sim_verbal"):
        for sample in read(root / source):
            if sample.embodiment == "fetch":
                splits.setdefault(sample.provenance["world_seed"], set()).add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {"heldout"} in splits.values()


def test_two_processes_write_the_same_bytes_as_one(simulated: Simulated, tmp_path: Path) -> None:
    root, _, _ = simulated
    simulate(tmp_path, settings=replace(TINY, workers=2))
    assert digests(tmp_path) == digests(root)


def test_another_seed_gives_other_worlds() -> None:
    first, second = plan_episodes(TINY), plan_episodes(replace(TINY, seed=1))
    assert {plan.world_seed for plan in first}.isdisjoint(plan.world_seed for plan in second)


def test_a_folder_that_holds_shards_is_refused_before_anything_is_simulated(simulated: Simulated) -> None:
    root, _, _ = simulated
    with pytest.raises(UserError, match="shards in"):
        simulate(root, settings=replace(TINY, fetch_episodes=100_000))


def test_amounts_that_give_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="anchor_stride"):
        simulate(tmp_path, settings=replace(TINY, anchor_stride=0))


def test_an_interrupted_simulation_goes_on_where_it_was(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int, _: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, settings=TINY, progress=interrupt)
    played = 0
    work = module._work

    def counted(job: module.Job) -> dict[str, list[Sample]]:
        nonlocal played
        played += 1
        return work(job)

    monkeypatch.setattr(module, "_work", counted)
    simulate(tmp_path, settings=TINY)
    assert digests(tmp_path) == digests(simulated[0])
    assert 0 < played < len(module._jobs(TINY))
    assert not list(tmp_path.glob(".ended-*"))


def test_fast_keeps_the_demos_chunks_within_two_percent_of_their_range(simulated: Simulated) -> None:
    horizon, width = 10, 14
    chunks, masks = [], []
    for source in ("sim_fetch", "sim_metaworld", "sim_aloha"):
        samples = read(simulated[0] / source)
        actions = np.stack([sample.actions[:horizon] for sample in samples if sample.actions is not None])
        low, high = np.quantile(actions, [0.01, 0.99], axis=(0, 1))
        scaled = (actions - low) / np.maximum(high - low, 1e-3) * 2 - 1
        padding = ((0, 0), (0, 0), (0, width - scaled.shape[-1]))
        chunks += list(np.pad(scaled, padding).astype(np.float32))
        masks += [np.arange(width) < scaled.shape[-1]] * len(scaled)
    fast = fit_fast_tokenizer(chunks, vocab_size=512)
    errors = []
    for chunk, mask in zip(chunks, masks, strict=True):
        decoded = fast.decode(fast.encode(chunk), horizon=horizon, dim=width)
        assert decoded is not None
        errors.append((decoded - chunk)[:, mask].ravel())
    assert np.sqrt(np.mean(np.concatenate(errors) ** 2)) < 0.02 * 2  # the range is [-1, 1]
