from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pi05_train.checkpoint.foreign.exporting import Weights, export_checkpoint
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.importing import import_checkpoint
from pi05_train.checkpoint.foreign.lerobot_files import LerobotPolicy, policy_of
from pi05_train.checkpoint.storage.own import write_weights_folder
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig
from pi05_train.model.half import to_bfloat16
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.conventions import NORMALISATION, conventions_of
from pi05_train.policy.load import load_foreign_policy
from pi05_train.policy.policy import Policy
from pi05_train.processing.normalisation import write_norm_stats
from pi05_train.processing.processor import Processor
from pi05_train.processing.sequence import build_prompt
from pi05_train.processing.templates import Templates
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens
from tests.checkpoint.foreign.dict_source import DictSource
from tests.policy.toy_policy import FAST_SIZE, toy_processor, toy_samples
from tests.synthetic import CARDS

SOURCE, ABSOLUTE = "toy_arm", "toy_bimanual"
"""A robot with relative actions, which LeRobot does not have, and one without."""
TEMPLATES = {
    "pi05": Templates(),
    "pi0": Templates(low_level="{task}", low_level_separator="\n"),
    "pi0_fast": Templates(low_level="Task: {task}, State: {state};\n", low_level_begin="Action: ", cleaning="pi0_fast"),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name the toy tokenizers, saved."""
    folder = tmp_path_factory.mktemp("tokenizers")
    corpus = [f"Task: {s.task}, State: 12 200;\nAction: " for s in toy_samples(SOURCE)]
    fit_text_tokenizer(corpus * 9, folder / "text", pieces=300, fast_size=FAST_SIZE)
    toy_processor().tokens.fast.save(folder / "fast")
    return [f"tokenizer.text={folder / 'text'}", f"tokenizer.fast={folder / 'fast'}"]


def made_policy(
    family: str, tokenizers: list[str], source: str = SOURCE, *, normalisation: str | None = None
) -> Policy:
    """What should come out of every file: made in memory."""
    text, fast = (part.partition("=")[2] for part in tokenizers)
    tokens = Tokens.load(text, fast, native_dims=family == "pi0_fast")
    config = replace(toy_processor().model, family=family, vocab_size=tokens.layout.vocab_size)
    model = Pi05(config, expert=family != "pi0_fast")
    model.init_weights(seed=4)
    processor = Processor(
        config,
        {source: CARDS[source]},
        {source: toy_processor().statistics[source]},
        tokens,
        TEMPLATES[family],
        None,
        stage_has_expert=model.action is not None,
        normalisation=normalisation or NORMALISATION[family],
        padded_dims_trained=True,
    )
    return Policy(model.eval(), processor)


def write(policy: Policy, folder: Path, format: Format, *, prompt_state_dim: int | None = None) -> None:
    """The policy's weights and statistics as a checkpoint of `format`; LeRobot's may have more state in its prompt."""
    config, source = policy.model.config, DictSource(policy.model.state_dict())
    ((name, card),) = policy.processor.cards.items()
    stats = folder.parent / "norm_stats.json"
    write_norm_stats(stats, policy.processor.statistics[name])
    assets = {f"{name}/norm_stats.json": stats.read_bytes()}
    if format is Format.LEROBOT:
        words = policy.processor.templates
        told = policy_of(
            config,
            card,
            normalisation=policy.processor.normalisation,
            low_level=words.low_level,
            separator=words.low_level_separator,
            euler_steps=6,
        )
        told = told if prompt_state_dim is None else replace(told, prompt_state_dim=prompt_state_dim)
        weights = Weights(source, config, assets, told, f"{name}/norm_stats.json")
        export_checkpoint(weights, folder, format, card="")
        return
    if format is not Format.WEIGHTS:
        export_checkpoint(Weights(source, config, assets), folder, format, card="")
        return
    described = {"model": asdict(config), "expert": policy.has_expert, "adaptation": asdict(AdaptationConfig())}
    write_weights_folder(
        folder,
        source.specs,
        policy.model.state_dict().items(),
        model_yaml=yaml.safe_dump(described),
        origin={"format": "made", "where": "here"},
        assets=assets,
    )


def sizes(config: ModelConfig) -> list[str]:
    """The network as overrides."""
    found = []
    for key, value in asdict(config).items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found += [f"model.{key}{'.' if part else ''}{part}={number}" for part, number in parts]
    return found


@pytest.mark.parametrize(
    ("family", "format"),
    [
        ("pi05", Format.WEIGHTS),
        ("pi05", Format.OPENPI_TORCH),
        ("pi0", Format.OPENPI_ORBAX),
        ("pi0", Format.OPENPI_TORCH),
        ("pi0_fast", Format.WEIGHTS),
        ("pi0_fast", Format.OPENPI_ORBAX),
    ],
)
def test_weights_from_elsewhere_act_as_in_memory(
    family: str, format: Format, tokenizers: list[str], tmp_path: Path
) -> None:
    made, samples = made_policy(family, tokenizers), toy_samples(SOURCE)[:2]
    write(made, tmp_path / "weights", format)
    overrides = [*tokenizers, *(sizes(made.model.config) if format is not Format.WEIGHTS else [])]
    policy = load_foreign_policy(str(tmp_path / "weights"), CARDS[SOURCE], overrides)
    assert policy.processor.prompt_only(samples[0]).prefix_ids == made.processor.prompt_only(samples[0]).prefix_ids
    if family == "pi0_fast":
        assert policy._written(samples, 5, None) == made._written(samples, 5, None)
        with pytest.raises(UserError, match="FAST tokens that are no chunk"):
            policy.actions(samples, [1, 2])
    else:
        np.testing.assert_array_equal(policy.actions(samples, [1, 2]), made.actions(samples, [1, 2]))


def test_bfloat16_is_loaded_as_halving_afterwards_gives_it(tokenizers: list[str], tmp_path: Path) -> None:
    made, samples = made_policy("pi05", tokenizers), toy_samples(SOURCE)[:2]
    write(made, tmp_path / "weights", Format.WEIGHTS)
    halved = load_foreign_policy(str(tmp_path / "weights"), CARDS[SOURCE], tokenizers, bfloat16=True)
    whole = np.stack(made.actions(samples, [1, 2]))
    to_bfloat16(made.model)
    assert halved.model.layers[0].get_submodule("backbone.q_proj").weight.dtype == torch.bfloat16
    np.testing.assert_array_equal(halved.actions(samples, [1, 2]), made.actions(samples, [1, 2]))
    np.testing.assert_allclose(halved.actions(samples, [1, 2]), whole, atol=0.05 * np.abs(whole).max())


def test_statistics_must_be_named_where_there_is_a_choice(tokenizers: list[str], tmp_path: Path) -> None:
    made, folder = made_policy("pi05", tokenizers), tmp_path / "weights"
    write(made, folder, Format.OPENPI_ORBAX)
    overrides = [*tokenizers, *sizes(made.model.config)]
    another = folder / "assets" / "another"
    another.mkdir()
    (another / "norm_stats.json").write_bytes((folder / "assets" / SOURCE / "norm_stats.json").read_bytes())
    with pytest.raises(UserError, match=r"got 2 of them, expected one of \['another', 'toy_arm'\]"):
        load_foreign_policy(str(folder), CARDS[SOURCE], overrides)
    with pytest.raises(UserError, match="got 'third', expected one of"):
        load_foreign_policy(str(folder), CARDS[SOURCE], overrides, asset="third")
    assert load_foreign_policy(str(folder), CARDS[SOURCE], overrides, asset="another").has_expert


@pytest.mark.parametrize(
    ("family", "normalisation", "imported"),
    [("pi05", "quantile", True), ("pi05", "z_score", False), ("pi0", "z_score", True), ("pi0", "quantile", False)],
)
def test_lerobots_policies_act_as_their_files_say(
    family: str, normalisation: str, imported: bool, tokenizers: list[str], tmp_path: Path
) -> None:
    made, samples = made_policy(family, tokenizers, ABSOLUTE, normalisation=normalisation), toy_samples(ABSOLUTE)[:2]
    write(made, tmp_path / "weights", Format.LEROBOT)
    where = tmp_path / "weights"
    if imported:
        where = tmp_path / "imported"
        import_checkpoint(str(tmp_path / "weights"), where, made.model.config, AdaptationConfig())
    policy = load_foreign_policy(str(where), CARDS[ABSOLUTE], tokenizers)
    assert policy.processor.prompt_only(samples[0]).prefix_ids == made.processor.prompt_only(samples[0]).prefix_ids
    assert policy.euler_steps == 6
    made.sampler.steps = 6
    np.testing.assert_allclose(policy.actions(samples, [1, 2]), made.actions(samples, [1, 2]), atol=1e-4)


def test_the_prompt_of_a_lerobot_policy_has_as_many_numbers_of_state_as_it_was_trained_with(
    tokenizers: list[str], tmp_path: Path
) -> None:
    made, sample = made_policy("pi05", tokenizers, ABSOLUTE), toy_samples(ABSOLUTE)[0]
    write(made, tmp_path / "weights", Format.LEROBOT, prompt_state_dim=20)
    found = load_foreign_policy(str(tmp_path / "weights"), CARDS[ABSOLUTE], tokenizers).processor
    state = made.processor._state(sample)
    assert state is not None
    padded, words = np.pad(state, (0, 6)), made.processor.templates
    expected = build_prompt(sample, templates=words, tokens=made.processor.tokens, state_normalised=padded)
    assert found.prompt_only(sample).prefix_ids == expected


def absolute_policy() -> LerobotPolicy:
    """LeRobot's, with a bare prompt."""
    words = {"low_level": "{task}", "separator": "\n"}
    return policy_of(toy_processor().model, CARDS[ABSOLUTE], normalisation="quantile", euler_steps=10, **words)


def test_a_lerobot_policy_without_state_in_its_prompt_is_asked_with_the_task_alone() -> None:
    words = conventions_of("pi05", [], absolute_policy(), CARDS[ABSOLUTE]).templates
    assert (words.low_level, words.low_level_separator) == ("{task}", "\n")
    chosen = conventions_of("pi05", ["templates=paper"], absolute_policy(), CARDS[ABSOLUTE]).templates
    assert "{control_mode}" in chosen.low_level


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"state_dim": 13}, "state_dim: got 13, expected 14"),
        ({"action_dim": 7}, "action_dim: got 7, expected 14"),
        ({"delta_mask": [True]}, r"delta_mask: got \[True\], expected nothing relative"),
        ({"cameras": ["base_0_rgb", "base_1_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]}, "expected at most 3"),
    ],
)
def test_a_card_that_a_lerobot_policy_is_not_for_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        conventions_of("pi05", [], absolute_policy(), replace(CARDS[ABSOLUTE], **change))  # type: ignore[arg-type]


def test_a_lerobot_policy_without_statistics_takes_those_that_a_person_puts_beside_it(
    tokenizers: list[str], tmp_path: Path
) -> None:
    made, folder = made_policy("pi05", tokenizers, ABSOLUTE), tmp_path / "weights"
    write(made, folder, Format.LEROBOT)
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"got 0 of them, expected one of .*put a robot's norm_stats.json into assets"):
        load_foreign_policy(str(folder), CARDS[ABSOLUTE], tokenizers)
    (folder / "assets" / "mine").mkdir(parents=True)
    (folder / "assets" / "mine" / "norm_stats.json").write_bytes((tmp_path / "norm_stats.json").read_bytes())
    found = load_foreign_policy(str(folder), CARDS[ABSOLUTE], tokenizers).processor
    assert found.prompt_state_dim == 14
    state = toy_samples(ABSOLUTE)[0].state
    chunk = np.zeros((8, 14))
    expected = made.processor.physical_actions(chunk, ABSOLUTE, state)
    np.testing.assert_array_equal(found.physical_actions(chunk, ABSOLUTE, state), expected)


def test_a_backbone_that_no_robot_can_be_moved_by_is_refused(tokenizers: list[str], tmp_path: Path) -> None:
    made = made_policy("pi05", tokenizers)
    write(made, tmp_path / "weights", Format.PALIGEMMA_SAFETENSORS)
    with pytest.raises(UserError, match="got a network without an action expert, expected one with it, or pi0-FAST"):
        load_foreign_policy(str(tmp_path / "weights"), CARDS[SOURCE], [*tokenizers, *sizes(made.model.config)])
