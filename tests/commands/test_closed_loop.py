"""`pi05 evaluate --closed-loop`: in a simulator, through the server, side by side; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import pytest

from pi05_train.checkpoint.integrity import CHECKSUMS, COMPLETE
from pi05_train.checkpoint.run_state import step_folder
from pi05_train.commands import closed_loop as module
from pi05_train.commands.main import main
from pi05_train.config.build import enabled_cards
from pi05_train.config.compose import compose, read_config, to_yaml
from pi05_train.config.robots import read_robot
from pi05_train.evaluation.closed_loop import FOLDER, Film, read_closed_loop
from pi05_train.evaluation.films import SIDE
from pi05_train.evaluation.rollouts import run_rollouts
from pi05_train.policy.hierarchy import Hierarchy
from pi05_train.policy.policy import Policy
from pi05_train.report.write import write_report
from pi05_train.simulation.environments import EVALUATION_TASKS
from pi05_train.trainer.code_version import Code
from tests.evaluation.pixel_policy import PixelPolicy
from tests.policy.server.serving import flat, running
from tests.services.ports import free_ports

SERVED = {"run": "run", "step": None, "weights": "ema"}
"""What a server of the run says of it."""
SHORT = ["--tasks", "fetch-reach", "--episodes", "2", "--conditions", "seen", "unseen-environment"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run like the demo's second stage."""
    return made_up_run(tmp_path / "run", "demo_posttrain")


def made_up_run(folder: Path, experiment: str) -> Path:
    paths = [f"run.folder={folder}", "tokenizer.text=unused", "tokenizer.fast=unused", "model.vision.image_size=32"]
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(compose([f"experiment={experiment}", *paths])))
    (folder / "metrics.jsonl").write_text("")
    return folder


@pytest.fixture
def policy(run: Path, monkeypatch: pytest.MonkeyPatch) -> PixelPolicy:
    found = PixelPolicy(enabled_cards(read_config(run / "config.yaml")))
    monkeypatch.setattr(module, "load_policy", lambda *_, **__: found)
    monkeypatch.setattr(module, "run_rollouts", partial(run_rollouts, max_steps=7))
    return found


def played(run: Path, *words: str) -> Any:
    """What the call wrote, without its time."""
    assert main(["evaluate", str(run), "--closed-loop", *SHORT, *words]) == 0
    found = read_closed_loop(run)
    assert found is not None
    return replace(found, seconds=0.0)


def _of(film: Film) -> tuple[str, str, int]:
    return film.policy, film.condition, film.seed


def test_modes_stand_side_by_side_in_terminal_file_films_and_report(
    run: Path, policy: PixelPolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--modes", "hierarchical", "flat", "oracle", "flat", "--commands", "high-level", "--worlds", "1"]
    found = played(run, *words, "--episodes", "1", "--conditions", "unseen-environment")
    assert len(found.results) == 3 * 3
    starts = {(r.policy, r.command, r.seed) for r in found.results}
    assert len(starts) == len(found.results)
    commands = {r.command for r in found.results}
    assert commands == set(EVALUATION_TASKS["fetch-reach"].high_level)
    assert policy.prompts == commands | {f"do {command}" for command in commands} | {"move the gripper to the red ball"}
    assert policy.questions == 3  # one per episode: a second has not passed
    assert {r.environment[-2:] >= "12" for r in found.results} == {True}
    said = capsys.readouterr().out
    assert all(word in said for word in ("hierarchical", "flat", "oracle", "unseen environment", "0/1 0 (0–79)"))
    assert {film.policy for film in found.films} == {"hierarchical", "flat", "oracle"}
    for film in found.films:
        steps = {r.steps for r in found.results if (r.policy, r.condition, r.seed) == _of(film)}
        with av.open(str(run / FOLDER / film.file)) as video:
            pictures = list(video.decode(video=0))
        assert {len(pictures) - 1} == steps
        assert (pictures[0].width, pictures[0].height) == (2 * SIDE, SIDE)
    page = write_report(run).read_text()
    assert page.count("<video") == len(found.films)
    assert "Closed loop after run" in page
    assert not played(run, "--films", "0").films
    assert not list((run / FOLDER).iterdir())


def test_results_are_the_same_side_by_side_and_through_the_server(run: Path, policy: PixelPolicy) -> None:
    words = ["--films", "0"]
    one_by_one = played(run, *words, "--worlds", "1")
    assert set(policy.asked) == {1}
    assert played(run, *words, "--worlds", "4") == one_by_one
    assert max(policy.asked) == 4
    card = enabled_cards(read_config(run / "config.yaml"))["sim_fetch"]
    serving = running(source=card, robot=read_robot("sim_fetch"), infer=policy.actions, about=SERVED)
    late = ["--episodes", "1", "--strategy", "real_time", "--execute-steps", "3", "--delay-steps", "2"]
    late_here = played(run, *words, *late)
    assert (late_here.strategy, late_here.execute_steps, late_here.delay_steps) == ("real_time", 3, 2)
    with serving as server:
        url = ["--server", f"ws://127.0.0.1:{server.port}"]
        assert played(run, *words, *url).results == one_by_one.results
        assert played(run, *words, *url, *late).results == late_here.results


@pytest.mark.slow
def test_processes_share_the_episodes_and_change_no_result(
    run: Path, policy: PixelPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_rollouts", run_rollouts)  # as the processes have it
    here = played(run, "--films", "0")
    card = enabled_cards(read_config(run / "config.yaml"))["sim_fetch"]
    with running(source=card, robot=read_robot("sim_fetch"), infer=policy.actions, about=SERVED) as server:
        url = f"ws://127.0.0.1:{server.port}"
        assert played(run, "--films", "0", "--server", url, "--processes", "2").results == here.results


def test_a_server_that_names_subtasks_does_so_anew_for_every_episode(run: Path, policy: PixelPolicy) -> None:
    words = ["--films", "0", "--worlds", "1", "--conditions", "seen"]
    here = played(run, *words, "--modes", "hierarchical")
    assert policy.questions == len(here.results) == 2
    cards = enabled_cards(read_config(run / "config.yaml"))
    (above,) = (name for name, card in cards.items() if card.kind == "HL")
    levels = Hierarchy(cast(Policy, policy), "hierarchical", high_level_source=above)
    serving = running(
        source=cards["sim_fetch"],
        robot=read_robot("sim_fetch"),
        hierarchical=levels.act,
        about=SERVED,
        clock=lambda: 0.0,
    )
    with serving as server:
        there = played(run, *words, "--server", f"ws://127.0.0.1:{server.port}")
    assert there.results == here.results
    assert {result.policy for result in there.results} == {"hierarchical"}
    assert policy.questions == 4


def test_an_interrupted_evaluation_goes_on_and_ends_as_if_it_had_not_been_interrupted(
    run: Path, policy: PixelPolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (run / FOLDER).iterdir()}

    words = ["--worlds", "1", "--conditions", "seen", "--episodes", "3"]
    uninterrupted, films, asked = played(run, *words), files(), len(policy.asked)
    assert films
    policy.patience = asked // 2
    assert main(["evaluate", str(run), "--closed-loop", *SHORT, *words]) == 130
    policy.patience = None
    (kept,) = run.glob(".closed_loop-*.jsonl")
    ended = kept.read_bytes().count(b"\n")
    assert 0 < ended < len(uninterrupted.results)
    with kept.open("ab") as file:
        file.write(b'{"place": 3, "seconds": 1, "res')
    policy.asked.clear()
    capsys.readouterr()
    assert played(run, *words) == uninterrupted
    assert f"{ended}/3 goes on after the {ended} episodes of an earlier call" in capsys.readouterr().out
    assert len(policy.asked) == asked * (3 - ended) // 3
    assert files() == films
    assert not list(run.glob(".closed_loop-*"))


def test_only_the_same_evaluation_goes_on(run: Path, monkeypatch: pytest.MonkeyPatch, policy: PixelPolicy) -> None:
    del policy

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_rollouts", interrupted)

    def begun(*words: str) -> int:
        """How many evaluations there are, with this one."""
        assert main(["evaluate", str(run), "--closed-loop", *SHORT, *words]) == 130
        return len(list(run.glob(".closed_loop-*")))

    assert begun() == begun("--worlds", "3", "--films", "4", "--execute-steps", "5") == 1
    others = (
        ["--episodes", "3"],
        ["--tasks", "fetch-push"],
        ["--conditions", "seen"],
        ["--modes", "flat", "oracle"],
        ["--commands", "high-level"],
        ["--weights", "raw"],
        ["--execute-steps", "4"],
        ["--strategy", "real_time"],
        ["--delay-steps", "2"],
    )
    for number, words in enumerate(others, 2):
        assert begun(*words) == number
    before = begun()
    checkpoint = step_folder(run, 5)
    checkpoint.mkdir(parents=True)
    (checkpoint / COMPLETE).write_text("{}")
    for number, content in enumerate(("{}", "other weights"), before + 1):
        (checkpoint / CHECKSUMS).write_text(content)
        assert begun() == number
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("euler_steps: 10", "euler_steps: 9"))
    assert begun() == before + 3
    monkeypatch.setattr(module, "code_version", lambda: Code({"git_commit": "another"}, ""))
    assert begun() == before + 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tasks", "juggle"], "evaluation task: got 'juggle', expected one of fetch-reach"),
        (["--tasks", "aloha-transfer"], "task aloha-transfer: got a run without the source sim_aloha"),
        (["--modes", "psychic"], "--modes: got 'psychic', expected of hierarchical, flat, oracle"),
        (["--episodes", "0"], "--episodes: got 0, expected at least 1"),
        (["--execute-steps", "5", "--strategy", "open_loop"], "got it with open_loop, expected another strategy"),
        (["--delay-steps", "11"], "--delay-steps: got 11, expected at most a chunk, 10"),
        (["--execute-steps", "11"], "--execute-steps: got 11, expected at most a chunk, 10"),
        (["--tasks", "fetch-reach", "--conditions", "unseen-object"], "--conditions: got ['unseen object']"),
        (
            ["--server", "ws://127.0.0.1:1", "--modes", "oracle"],
            "--modes: got oracle with --server, expected its one mode, flat or h",
        ),
        (["--server", "ws://127.0.0.1:1"], "--server: got tasks of sim_fetch, sim_metaworld, expected tasks of one"),
    ],
)
def test_what_cannot_be_played_is_refused_before_weights_are_read(
    run: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--closed-loop", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_without_an_expert_and_loop_options_alone_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first_stage = made_up_run(tmp_path / "first", "demo_pretrain")
    assert main(["evaluate", str(first_stage), "--closed-loop"]) == 2
    assert "got a run without an action expert, expected a post-trained one" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--films", "2"]) == 2
    assert "got --films, expected it with --closed-loop" in capsys.readouterr().err


def test_servers_that_are_away_or_serve_something_else_are_refused(
    run: Path, policy: PixelPolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = enabled_cards(read_config(run / "config.yaml"))

    def refused(port: int, *words: str) -> str:
        server = f"ws://127.0.0.1:{port}"
        assert main(["evaluate", str(run), "--closed-loop", *SHORT, "--server", server, *words]) == 2
        return capsys.readouterr().err

    assert "expected a `pi05 serve` that answers" in refused(*free_ports(1))
    with running(source=cards["sim_metaworld"], robot=read_robot("sim_metaworld"), infer=policy.actions) as server:
        assert ", robot: got 'sim_metaworld', expected 'sim_fetch'; serve this robot's card" in refused(server.port)
    other, sources = (
        SERVED | {"step": 7, "weights": "raw"},
        {"source": cards["sim_fetch"], "robot": read_robot("sim_fetch")},
    )
    with running(**sources, infer=policy.actions, about=other) as server:
        told = refused(server.port)
        assert "'step': 7, 'weights': 'raw', 'mode': 'flat'}, expected {'run': 'run', 'step': None" in told
    with running(**sources, hierarchical=flat(policy.actions), about=SERVED) as server:
        assert "'mode': 'hierarchical'}, expected {'run': 'run', 'step': None, 'weights': 'ema', 'mode': 'flat'}" in (
            refused(server.port, "--modes", "flat")
        )
    assert not policy.asked
    assert read_closed_loop(run) is None
