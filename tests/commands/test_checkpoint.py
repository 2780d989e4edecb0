"""`pi05 checkpoint` as users call it: in, out, looked at, compared, trained from; and every refusal."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from pi05_train.checkpoint.foreign.formats import our_shapes
from pi05_train.checkpoint.foreign.identify import Format, open_source
from pi05_train.checkpoint.storage.own import RunSource, write_weights_folder
from pi05_train.checkpoint.storage.safetensors_files import SafetensorsSource, write_safetensors
from pi05_train.checkpoint.storage.source import TensorSource, TensorSpec
from pi05_train.checkpoint.weights import load_weights
from pi05_train.commands.main import main
from pi05_train.config.compose import read_config
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig
from pi05_train.model.pi05 import Pi05
from tests.checkpoint.foreign.tiny_models import random_bits, tiny_config
from tests.checkpoint.storage.made import same_bits
from tests.commands.conftest import Workspace
from tests.golden_numbers import complete_path, golden_json
from tests.model.golden_model import golden_config

STATISTICS = json.dumps({"norm_stats": {"state": {}, "actions": {}}}).encode()


def overrides(config: ModelConfig) -> list[str]:
    """A network as a user would describe it."""
    values = asdict(config)
    nested = {part: values.pop(part) for part in ("vision", "backbone", "expert")}
    flat = [f"model.{part}.{key}={value}" for part, inner in nested.items() for key, value in inner.items()]
    return [*flat, *(f"model.{key}={value}" for key, value in values.items())]


def weights_folder(folder: Path, config: ModelConfig, *, expert: bool = True) -> Path:
    """Random bits as weights of ours."""
    tensors = random_bits(our_shapes(config, expert=expert))
    specs = {name: TensorSpec(tuple(tensor.shape), "float32") for name, tensor in tensors.items()}
    description = {"model": asdict(config), "expert": expert, "adaptation": asdict(AdaptationConfig())}
    write_weights_folder(
        folder,
        specs,
        tensors.items(),
        model_yaml=yaml.safe_dump(description),
        origin={"format": "made", "where": "here"},
        assets={"robot/norm_stats.json": STATISTICS},
    )
    return folder


def assert_same(first: TensorSource, second: TensorSource) -> None:
    assert first.specs.keys() == second.specs.keys()
    assert all(same_bits(first.read(name), second.read(name)) for name in first.specs)


@pytest.mark.parametrize("to", ["openpi", "openpi_torch", "paligemma"])
@pytest.mark.parametrize("family", ["pi05", "pi0", "pi0_fast"])
def test_out_and_in_again_keeps_every_bit(
    tmp_path: Path, family: str, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(family)
    mine = weights_folder(tmp_path / "mine", config, expert=family != "pi0_fast" and to != "paligemma")
    assert main(["checkpoint", "export", str(mine), str(tmp_path / "theirs"), "--to", to]) == 0
    again = tmp_path / "again"
    assert main(["checkpoint", "import", str(tmp_path / "theirs"), str(again), *overrides(config)]) == 0
    assert_same(open_source(str(mine))[1], open_source(str(again))[1])
    capsys.readouterr()
    assert main(["checkpoint", "diff", str(mine), str(tmp_path / "theirs")]) == 0
    assert "tensors hold the same bits, all" in capsys.readouterr().out
    if to != "paligemma":
        assert (again / "assets/robot/norm_stats.json").read_bytes() == STATISTICS
    assert (tmp_path / "theirs" / "README.md").read_text().startswith("---\n")


@pytest.mark.parametrize("to", ["openpi", "openpi_torch"])
@pytest.mark.parametrize(
    "original",
    ["openpi_orbax/pi05_tiny_save_state", "openpi_orbax/pi05_tiny_pure", "openpi_torch/pi05_tiny.safetensors"],
)
def test_openpis_own_files_round_trip(tmp_path: Path, original: str, to: str) -> None:
    source = complete_path(original)
    config = golden_config(golden_json("configs")["pi05_tiny"], name="golden")
    assert main(["checkpoint", "import", str(source), str(tmp_path / "ours"), *overrides(config)]) == 0
    assert main(["checkpoint", "export", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", to]) == 0
    assert main(["checkpoint", "diff", str(source), str(tmp_path / "back")]) == 0
    first, second = open_source(str(source)), open_source(str(tmp_path / "back"))
    if first[0] is second[0]:
        unused = "paligemma_with_expert.gemma_expert.lm_head.weight"
        assert first[1].specs.keys() == second[1].specs.keys()
        assert all(same_bits(first[1].read(n), second[1].read(n)) for n in first[1].specs if n != unused)


def test_inspect_names_format_network_and_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = weights_folder(tmp_path / "mine", tiny_config("pi05"))
    assert main(["checkpoint", "export", str(mine), str(tmp_path / "theirs"), "--to", "openpi"]) == 0
    capsys.readouterr()
    assert main(["checkpoint", "inspect", str(tmp_path / "theirs")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("openpi orbax: ")
    assert "pi05 network: " in printed
    assert "statistics: assets/robot/norm_stats.json" in printed
    assert re.search(r"input_embedding 170 +\[17, 10\] float32", printed)
    assert main(["checkpoint", "inspect", str(mine)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("pi05 weights: ")
    assert "2 x [10]" in printed


def test_diff_tells_numbers_and_absent_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config("pi05")
    first = weights_folder(tmp_path / "first", config)
    backbone = weights_folder(tmp_path / "backbone", config, expert=False)
    source = open_source(str(first))[1]
    tensors = {name: source.read(name).clone() for name in source.specs}
    tensors["final_norm.scale"] = torch.arange(10.0)
    write_safetensors(first / "weights.safetensors", source.specs, tensors.items())
    changed = weights_folder(tmp_path / "changed", config)
    tensors["final_norm.scale"][3] += 0.5
    write_safetensors(changed / "weights.safetensors", source.specs, tensors.items())
    capsys.readouterr()
    assert main(["checkpoint", "diff", str(first), str(changed)]) == 1
    assert "final_norm.scale: 1 of 10 numbers differ, by 0.5 at most (largest 9)" in capsys.readouterr().out
    assert main(["checkpoint", "diff", str(first), str(backbone)]) == 1
    assert re.search(rf"not in {backbone}: \d+ \(layers\.0\.expert", capsys.readouterr().out)


def test_bfloat16_is_widened_exactly_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config("pi05")
    mine, half = weights_folder(tmp_path / "mine", config), str(tmp_path / "half")
    assert main(["checkpoint", "export", str(mine), half, "--to", "openpi", "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    assert main(["checkpoint", "import", half, str(tmp_path / "no"), *overrides(config), "--float32-only"]) == 2
    assert "got bfloat16 in" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert main(["checkpoint", "import", half, str(tmp_path / "yes"), *overrides(config)]) == 0
    wide, narrow = open_source(str(tmp_path / "yes"))[1], open_source(half)[1]
    assert {spec.dtype for spec in wide.specs.values()} == {"float32"}
    assert same_bits(wide.read("embedding.weight").bfloat16(), narrow.read("PaliGemma/llm/embedder/input_embedding"))


def test_a_run_starts_from_imported_weights(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """Out of a run with LoRA, merged, into openpi's format, and in again as the start of another run."""
    run, theirs, ours = (workspace.root / name for name in ("run", "theirs", "ours"))
    lora = ["adaptation=openpi_lora", "optimizer.learning_rate=0.01"]
    assert main(["train", *workspace.overrides("posttrain", f"run.folder={run}", *lora)]) == 0
    config = read_config(run / "config.yaml")
    assert main(["checkpoint", "export", str(run), str(theirs), "--to", "openpi"]) == 0
    assert main(["checkpoint", "import", str(theirs), str(ours), *overrides(config.model)]) == 0
    assert {path.parent.name for path in ours.glob("assets/*/norm_stats.json")} == {
        path.parent.name for path in run.glob("assets/*/norm_stats.json")
    }
    merged, adapted = open_source(str(ours))[1], RunSource(run, "ema")
    name = "layers.0.backbone.q_proj.weight"
    assert not torch.equal(merged.read(name), adapted.read(name))
    card = (theirs / "README.md").read_text()
    assert "averaged over the steps" in card
    assert "toy_mobile" in card
    start = [f"run.folder={workspace.root / 'second'}", f"run.start_from={ours}"]
    assert main(["train", *workspace.overrides("posttrain", *start, "run.steps=2")]) == 0
    capsys.readouterr()
    other = [f"run.folder={workspace.root / 'third'}", f"run.start_from={ours}", "model.heads=2", "model.head_dim=64"]
    assert main(["train", *workspace.overrides("posttrain", *other)]) == 2
    assert re.search(r"model\.heads: got 4, expected 2, as configured", capsys.readouterr().err)


def test_lerobot_gets_the_policy_of_one_robot(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    run, theirs, ours = (workspace.root / name for name in ("run", "theirs", "ours"))
    assert main(["train", *workspace.overrides("posttrain", f"run.folder={run}")]) == 0
    export = ["checkpoint", "export", str(run), str(theirs), "--to", "lerobot"]
    capsys.readouterr()
    assert main(export) == 2
    assert re.search(r"--source: got nothing, and \d sources with actions", capsys.readouterr().err)
    assert main([*export, "--source", "toy_arm"]) == 2
    assert "LeRobot 0.4.4 cannot add the state after unnormalising" in capsys.readouterr().err
    narrow = str(workspace.root / "narrow")
    to_openpi = ["checkpoint", "export", str(run), narrow, "--to", "openpi"]
    assert main(to_openpi) == 0
    assert "note: These are the weights of several robots." in capsys.readouterr().out
    assert main([*to_openpi, "--source", "toy_arm"]) == 0
    kernel, whole = (open_source(narrow)[1].read("action_in_proj/kernel"), RunSource(run).read("action.in_proj.weight"))
    dims = read_config(run / "config.yaml").mixture.sources["toy_arm"].card.action_dim
    assert torch.equal(kernel[:dims], whole.T[:dims])
    assert whole.T[dims:].any()
    assert not kernel[dims:].any()
    assert main([*export, "--source", "toy_bimanual"]) == 0
    assert "note: LeRobot builds only the published network sizes" in capsys.readouterr().out
    assert "Gemma is provided under" not in (theirs / "README.md").read_text()
    assert open_source(str(theirs))[0] is Format.LEROBOT
    config = read_config(run / "config.yaml")
    assert main(["checkpoint", "import", str(theirs), str(ours), *overrides(config.model)]) == 0
    assert main(["checkpoint", "diff", str(run), str(ours)]) == 0
    again = workspace.root / "again"
    assert main(["checkpoint", "export", str(ours), str(again), "--to", "lerobot"]) == 0
    assert_same(SafetensorsSource(theirs), SafetensorsSource(again))
    assert json.loads((again / "config.json").read_text()) == json.loads((theirs / "config.json").read_text())


def test_raw_and_averaged_weights_are_exported_as_asked(workspace: Workspace) -> None:
    run = workspace.root / "run"
    assert main(["train", *workspace.overrides("pretrain", f"run.folder={run}", "optimizer.learning_rate=0.01")]) == 0
    config = read_config(run / "config.yaml")
    model = Pi05(config.model, expert=False)
    for kind in ("ema", "raw"):
        folder = workspace.root / kind
        assert main(["checkpoint", "export", str(run), str(folder), "--to", "paligemma", "--weights", kind]) == 0
        load_weights(run, model, ema=kind == "ema")
        stored = SafetensorsSource(folder).read("language_model.model.embed_tokens.weight")
        assert torch.equal(stored, model.embedding.weight)


def broken(tmp_path: Path, how: str) -> list[str]:
    """Arguments of an import that must be refused."""
    config = tiny_config("pi05")
    mine, theirs, ours = weights_folder(tmp_path / "mine", config), tmp_path / "theirs", str(tmp_path / "ours")
    to = "openpi_torch" if how in ("missing", "extra", "shape") else "openpi"
    assert main(["checkpoint", "export", str(mine), str(theirs), "--to", to]) == 0
    arguments = [str(theirs), ours, *overrides(config)]
    if how == "family":
        return [str(theirs), ours, *overrides(tiny_config("pi0"))]
    if how == "ours":
        return [str(mine), ours, *overrides(config)]
    if how == "nothing":
        return [str(tmp_path / "nowhere"), ours]
    if how == "unknown":
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "hello.txt").write_text("hello")
        return [str(tmp_path / "notes"), ours]
    if how == "half":
        shutil.rmtree(theirs / "params" / "d")
        return arguments
    source = SafetensorsSource(theirs)
    tensors = {name: source.read(name).clone() for name in source.specs}
    name = "paligemma_with_expert.paligemma.model.language_model.norm.weight"
    if how == "missing":
        del tensors[name]
    elif how == "extra":
        tensors["extra.weight"] = torch.zeros(3)
    elif how == "shape":
        tensors[name] = torch.zeros(11)
    specs = {name: TensorSpec(tuple(tensor.shape), "float32") for name, tensor in tensors.items()}
    write_safetensors(theirs / "model.safetensors", specs, tensors.items())
    return arguments


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("family", r"its family is pi05 .*, the configuration's is pi0.*override model=pi05"),
        ("missing", r"arrays missing 1 \(.*norm\.weight\)"),
        ("extra", r"arrays unknown 1 \(extra\.weight\)"),
        ("shape", r"of another shape 1 \(.*norm\.weight: \[11\] instead of \[10\]\)"),
        ("half", r"fetch or copy"),
        ("ours", r"got pi05 weights, expected another program's; name it in run\.start_from as it is"),
        ("unknown", r"got a folder with hello\.txt, expected one of openpi orbax, .*"),
        ("nothing", r"nowhere, which is not there"),
    ],
)
def test_a_checkpoint_that_cannot_be_imported_is_one_sentence(
    tmp_path: Path, how: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = broken(tmp_path, how)
    capsys.readouterr()
    assert main(["checkpoint", "import", *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said), said
    assert said.count("\n") == 1
    assert not (tmp_path / "ours").exists()
    assert not list(tmp_path.glob(".saving-*"))


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = weights_folder(tmp_path / "mine", tiny_config("pi05"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    capsys.readouterr()
    assert main(["checkpoint", "export", str(mine), str(tmp_path / "theirs"), "--to", "openpi"]) == 2
    assert re.search(r"got 0\.0 GB free, expected at least 0\.0 GB; make room", capsys.readouterr().err)
    assert not (tmp_path / "theirs").exists()


def test_openpis_loader_is_not_what_lerobot_wants_from_imported_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = weights_folder(tmp_path / "mine", tiny_config("pi05"))
    assert main(["checkpoint", "export", str(mine), str(tmp_path / "theirs"), "--to", "lerobot"]) == 2
    assert "export a run that started from these weights" in capsys.readouterr().err
