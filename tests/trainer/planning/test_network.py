"""Parameters and operations against counts by hand, at full size."""

from __future__ import annotations

import pytest

from pi05_train.errors import UserError
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.trainer.flops import Load, forward_flops
from tests.trainer.planning.jobs import CO_TRAINING, FLOW_ONLY, job, network, segment


def test_parameters_of_the_full_size_by_hand() -> None:
    """Counted from openpi's shapes."""
    parts = network().parts
    patches, width = 14 * 14 * 3 * 1152 + 1152 + 256 * 1152, 1152
    block = 4 * (width * width + width) + 2 * width * 4304 + 4304 + width + 4 * width
    assert parts["vision"].parameters == patches + 27 * block + 2 * width + 1152 * 2048 + 2048
    layer = 2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16384 + 2 * 2048
    assert parts["backbone"].parameters == 18 * layer + 2048
    assert parts["embedding"].parameters == 257152 * 2048
    adaptive = 1024 * 3072 + 3072
    expert = 2 * 1024 * 2048 + 2 * 1024 * 256 + 3 * 1024 * 4096 + 2 * adaptive
    ends = 32 * 1024 + 1024 + 1024 * 32 + 32 + 2 * (1024 * 1024 + 1024) + adaptive
    assert parts["expert"].parameters == 18 * expert + ends
    assert network().parameters == network().trained == 3_353_433_872
    assert network("experiment=pi05_pretrain").parameters == 2_923_335_408


@pytest.mark.parametrize("adaptation", ["openpi_lora", "openpi_lora_expert", "none"])
def test_what_trains_is_what_a_run_would_train(adaptation: str) -> None:
    overrides = ("experiment=demo_posttrain", "model=mid", f"adaptation={adaptation}")
    planned, (config, _) = network(*overrides), job(*overrides)
    model = Pi05(config.model, expert=True)
    adapt(model, config.adaptation)
    assert planned.parameters == sum(p.numel() for p in model.parameters())
    assert planned.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(part.lora for part in planned.parts.values()) == sum(
        p.numel() for name, p in model.named_parameters() if name.endswith(("lora_a", "lora_b"))
    )
    assert planned.outside_blocks + sum(planned.blocks) == planned.parameters


def test_nothing_frozen_is_the_yardstick() -> None:
    forward = forward_flops(CO_TRAINING, network().config.model)
    assert network().step_flops(CO_TRAINING) == {part: 3 * number for part, number in forward.items()}


@pytest.mark.parametrize(
    ("load", "overrides", "tera"),
    [
        (FLOW_ONLY, ("stage=paper_pi05",), 14.0),
        (CO_TRAINING, (), 15.6),
        (segment(images=3, prompt=60, target=60), (), 13.2),
        (segment(images=2, prompt=60, target=60), (), 9.3),
        (segment(images=1, prompt=50, target=50, acting=False), (), 5.1),
        (FLOW_ONLY, ("adaptation.freeze=[embedding.*,vision.*,final_norm.*,layers.*.backbone.*]",), 4.75),
        (FLOW_ONLY, ("stage.objective.text=false",), 4.75),
    ],
    ids=["flow only", "co-training", "true text", "two cameras", "web", "expert only", "insulated flow"],
)
def test_operations_agree_with_the_roofline(load: Load, overrides: tuple[str, ...], tera: float) -> None:
    """The roofline was counted independently of this code. The backbone has no backward pass where no gradient reaches
    anything that trains: whether because it is frozen or because insulation leaves it nothing."""
    mixture = ("mixture=paper_actions",) if "stage.objective.text=false" in overrides else ()
    found = network(*overrides, *mixture).step_flops(load)
    assert sum(found.values()) / 1e12 == pytest.approx(tera, rel=0.012)


def test_freezing_vision_saves_its_backward_pass() -> None:
    whole = sum(network().step_flops(CO_TRAINING).values())
    frozen = sum(network("adaptation.freeze=[vision.*]").step_flops(CO_TRAINING).values())
    assert 1 - frozen / whole == pytest.approx(0.08, abs=0.01)


def test_lora_costs_its_factors_and_the_gradient_through_frozen_layers() -> None:
    overrides = ("adaptation.lora=[{pattern: 'layers.*.backbone.gate_proj', rank: 8, alpha: 8.0}]",
                 "adaptation.freeze=['layers.*.backbone.*', 'final_norm.*']")  # fmt: skip
    plain, adapted = (forward_flops(CO_TRAINING, network().config.model), network(*overrides).step_flops(CO_TRAINING))
    factors = 18 * (2048 * 8 + 8 * 16384)
    assert adapted["backbone"] == pytest.approx(2 * plain["backbone"] + 3 * 2 * 1068 * factors, rel=1e-12)


def test_a_pattern_that_fits_nothing_is_refused_as_in_a_run() -> None:
    with pytest.raises(UserError, match=r"adaptation.freeze.0: got 'layer.*'"):
        network("adaptation.freeze=[layer.*]")
