"""`pi05 explain` of a training sample and of a robot's request, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pi05_train.commands.main import main
from pi05_train.policy.execution import Remainder
from pi05_train.policy.load import load_policy
from pi05_train.policy.server.wire import pack
from tests.commands.test_serve import card_file, served
from tests.policy.robots import observation_of
from tests.synthetic import CARDS, synthetic_samples

ARM = synthetic_samples(CARDS["toy_arm"])[0]


def page_of(run: Path, folder: Path, *words: str) -> str:
    page = folder / "new" / "page.html"
    assert main(["explain", str(run), *words, "--device", "cpu", "--html", str(page)]) == 0
    return page.read_text()


def actions_on(page: str) -> Any:
    found = re.search(r"<pre>(\{&quot;actions.*?)</pre>", page)
    assert found is not None
    return np.array(json.loads(found[1].replace("&quot;", '"'))["actions"], np.float32)


def test_a_training_sample_is_explained_with_the_actions_of_the_run(posttrained: Path, tmp_path: Path) -> None:
    page = page_of(posttrained, tmp_path, "--sample", f"toy_arm:{ARM.key}", "--seed", "3")
    np.testing.assert_array_equal(actions_on(page), load_policy(posttrained, ema=True).actions([ARM], [3])[0])
    assert "checkpoint step-00000003" in page
    assert "&lt;fast" in page


def test_an_observation_is_explained_with_the_actions_and_the_seed_that_the_robot_got(
    posttrained: Path, tmp_path: Path
) -> None:
    file, robot = tmp_path / "request.msgpack", card_file(tmp_path, "toy_arm")
    file.write_bytes(pack(observation_of(ARM) | {"seed": 5}))
    words = ["--observation", str(file), "--robot", robot, "--source", "toy_arm"]
    given = load_policy(posttrained, ema=True).actions([replace(ARM, actions=None)], [5])[0]
    np.testing.assert_array_equal(actions_on(page_of(posttrained, tmp_path, *words)), given)
    other = actions_on(page_of(posttrained, tmp_path, *words, "--seed", "6"))
    assert (other != served).any()


def test_a_kept_request_is_explained_with_its_subtask_and_the_chunk_that_it_went_on_with(
    posttrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, words = tmp_path / "kept", ["--robot", card_file(tmp_path, "toy_arm"), "--source", "toy_arm"]
    policy, sample = load_policy(posttrained, ema=True), replace(ARM, actions=None)
    rest = Remainder(policy.actions([sample], [1])[0][3:], 2)
    question = observation_of(ARM) | {"remainder": {"actions": rest.actions_RD, "delay_steps": 2}}
    options = ["--mode", "hierarchical", "--keep-requests", str(kept)]
    with monkeypatch.context() as patch:
        said = question | {"correction": "lift the cup"}
        _, _, reply = served(patch, tmp_path, said, str(posttrained), *words, *options)
    (file,) = kept.iterdir()
    page = page_of(posttrained, tmp_path, "--observation", str(file), *words)
    np.testing.assert_array_equal(actions_on(page), reply["actions"])
    assert "<dt>acted on</dt><dd>lift the cup</dd>" in page
    assert "the first 2 of them out of reach" in page
    assert "bent towards the former chunk" in page
    assert (policy.actions([sample], [reply["seed"]], [rest])[0] != reply["actions"]).any()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sample", "toy_arm"], "--sample: got 'toy_arm', expected SOURCE:KEY with a source among"),
        (["--sample", "nobody:1"], "--sample: got 'nobody:1', expected SOURCE:KEY"),
        (["--sample", "toy_arm:1"], "got '1', expected a key such as"),
        (["--observation", "nowhere", "--robot", "droid"], "--observation nowhere: got"),
        (["--observation", __file__, "--robot", "droid"], "frame: got"),
        (["--sample", f"toy_arm:{ARM.key}", "--robot", "droid"], "--robot: got droid, expected nothing beside"),
        (["--sample", f"toy_arm:{ARM.key}", "--seed", "-1"], "--seed: got -1"),
        (["--observation", "nowhere"], "--robot: got nothing, expected the robot that was observed"),
        (["--sample", f"toy_arm:{ARM.key}", "--high-level-source", "toy_web"], "high_level_source: got 'toy_web'"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    posttrained: Path, words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(posttrained), *words, "--html", str(tmp_path / "page.html")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
