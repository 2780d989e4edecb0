"""What an interrupted evaluation keeps: every episode that had ended, as it was, and nothing else."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.evaluation.kept import KeptEpisodes
from pi05_train.evaluation.results import RolloutResult

RESULTS = [
    RolloutResult("one", "a", seed, seed % 2 == 0, 3 + seed, "flat", command="schieb \u201eden Block")
    for seed in range(4)
]
ACTIONS = [list(np.random.default_rng(r.seed).normal(size=(r.steps, 4)).astype(np.float32)) for r in RESULTS]
ORDER = (2, 0, 3, 1)
"""In which the episodes end."""


def add(kept: KeptEpisodes, place: int) -> None:
    kept.add(place, RESULTS[place], ACTIONS[place], seconds=place + 0.1)


def check(kept: KeptEpisodes, places: tuple[int, ...]) -> None:
    assert tuple(kept.episodes) == places
    assert kept.seconds == (places[-1] + 0.1 if places else 0.0)
    for place, played in kept.episodes.items():
        assert played.result == RESULTS[place]
        np.testing.assert_array_equal(played.actions, ACTIONS[place])


@given(data=st.data(), junk=st.sampled_from([b"", b"\0\0\0", b"\0\n{}\n"]))
def test_wherever_the_file_was_cut_off_whole_episodes_count_and_the_rest_is_added_again(
    data: st.DataObject, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("kept") / "episodes"
    ends = [0]
    with KeptEpisodes(path) as kept:
        for place in ORDER:
            add(kept, place)
            ends.append(path.stat().st_size)  # what a killed process leaves
    cut = data.draw(st.one_of(st.integers(0, ends[-1]), st.sampled_from(ends)))
    path.write_bytes(path.read_bytes()[:cut] + junk)
    whole = sum(end <= cut for end in ends) - 1
    with KeptEpisodes(path) as kept:
        check(kept, ORDER[:whole])
        for place in ORDER[whole:]:
            add(kept, place)
    with KeptEpisodes(path) as kept:
        check(kept, ORDER)
        kept.delete()
    assert not path.exists()


def test_two_processes_cannot_play_the_same_evaluation(tmp_path: Path) -> None:
    with KeptEpisodes(tmp_path / "episodes") as kept:
        add(kept, 0)
        with pytest.raises(UserError, match="got an evaluation that another process is playing"):
            KeptEpisodes(tmp_path / "episodes")
    with KeptEpisodes(tmp_path / "episodes") as kept:
        check(kept, (0,))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_sentence_and_costs_no_episode_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "episodes"
    with KeptEpisodes(path) as kept:
        add(kept, 0)
        size = path.stat().st_size
    with (
        files_of_at_most(size + 10),
        pytest.raises(UserError, match="expected a disk that takes it"),
        KeptEpisodes(path) as kept,
    ):
        add(kept, 1)
    with KeptEpisodes(path) as kept:
        check(kept, (0,))
