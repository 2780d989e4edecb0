"""One evaluation of one policy: held-out numbers, examples to look at, closed-loop success."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from pi05_train.evaluation.drivers import Chunks, ZeroActions, plan_of
from pi05_train.evaluation.examples import action_examples, text_examples
from pi05_train.evaluation.heldout import SourceEvaluation, evaluate_heldout
from pi05_train.evaluation.results import ActionExample, Evaluation, RolloutResult, RolloutSummary, TextExample
from pi05_train.evaluation.rollouts import Driver, Episode, plan_trials, run_rollouts
from pi05_train.evaluation.success import summarise
from pi05_train.policy.execution import Execution
from pi05_train.policy.policy import Policy
from pi05_train.samples.schema import Sample

Progress = Callable[[int, int, str], None]
"""Hears the sources and episodes done, how many there are, and what comes or has ended."""
Say = Callable[[str], None]


def evaluate_policy(
    policy: Policy,
    *,
    stage: str,
    step: int,
    heldout: Mapping[str, Sequence[Sample]],
    training: Mapping[str, Sequence[Sample]],
    max_text_tokens: int,
    tasks: Sequence[str] = (),
    episodes_per_task: int = 0,
    execute_steps: int = 5,
    examples_per_source: int = 4,
    seed: int = 0,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Everything `write_evaluation` stores.

    `training` holds samples of the same sources, for the constant baselines. Rollouts need a policy with an expert;
    they are compared with the zero-action policy on the same start states.
    """
    begin = time.perf_counter()
    acting = bool(episodes_per_task) and policy.has_expert
    say = _counter(progress, len(heldout) + (2 * len(tasks) * episodes_per_task if acting else 0))
    found = evaluate_heldout(
        policy, heldout, training, max_text_tokens=max_text_tokens, seed=seed, progress=lambda s: say(f"held out: {s}")
    )
    chunks: list[ActionExample] = []
    texts: list[TextExample] = []
    images: dict[str, bytes] = {}
    for evaluation in found.values():
        if evaluation.truth.has_actions:
            chunks += action_examples(policy, evaluation, count=min(examples_per_source, 2), seed=seed)
        else:
            some, pictures = text_examples(policy, evaluation, count=examples_per_source)
            texts += some
            images |= pictures
    rollouts: list[RolloutSummary] = []
    if acting:
        rollouts = compare_rollouts(policy, tasks, episodes_per_task, execute_steps, say)
    return Evaluation(
        stage=stage,
        step=step,
        seconds=time.perf_counter() - begin,
        notes=(*notes, *_notes(found, rollouts)),
        heldout=tuple(row for evaluation in found.values() for row in evaluation.results),
        rollouts=tuple(rollouts),
        actions=tuple(chunks),
        texts=tuple(texts),
        images=images,
        samples={source: evaluation.by_sample for source, evaluation in found.items()},
    )


def compare_rollouts(
    policy: Policy, tasks: Sequence[str], episodes_per_task: int, execute_steps: int, say: Say
) -> list[RolloutSummary]:
    """Success of the policy and of the zero-action policy on the same start states, side by side for every task."""

    trials = plan_trials(tasks, episodes_per_task)
    size, horizon = policy.model.config.vision.image_size, policy.model.config.action_horizon
    trained = Chunks(
        plan_of(policy), lambda: Execution("receding_horizon", horizon=horizon, execute_steps=execute_steps)
    )

    def run(name: str, driver: Driver) -> list[RolloutSummary]:
        def ended(_: Episode, result: RolloutResult) -> None:
            say(told(result))

        return summarise(run_rollouts(driver, trials, policy=name, image_size=size, ended=ended))

    pairs = zip(run("trained", trained), run("zero actions", ZeroActions()), strict=True)
    return [summary for pair in pairs for summary in pair]


def told(result: RolloutResult) -> str:
    """An episode that has ended, in a line."""
    word = "success" if result.success else "no success"
    return (
        f"{result.policy}: {result.task}, {result.condition}, episode {result.seed}: {word} after {result.steps} steps"
    )


def _notes(found: Mapping[str, SourceEvaluation], rollouts: Sequence[RolloutSummary]) -> list[str]:
    """How few samples and episodes stand behind the numbers."""
    sizes = sorted(len(evaluation.samples) for evaluation in found.values())
    notes = []
    if sizes:
        notes.append(f"Held-out numbers rest on {sizes[0]} to {sizes[-1]} samples per source.")
    episodes = sorted({summary.episodes for summary in rollouts if summary.task})
    if episodes:
        notes.append(f"Success rates rest on {episodes[0]} episodes per task: mind the intervals.")
    return notes


def _counter(progress: Progress | None, total: int) -> Say:
    """Turns what is said into steps out of `total`."""
    done = 0

    def say(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, what)
        done += 1

    return say
