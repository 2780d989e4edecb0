"""The forecast of saved activations against what real networks save on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import count, total_loss
from pi05_train.trainer.flops import Load
from pi05_train.trainer.planning.activations import logits_saved, saved_for_backward, saved_with_checkpointing
from tests.model.batches import pack, segment
from tests.trainer.planning.jobs import CO_TRAINING, FLOW_ONLY, network

SHAPES = [(2, 25, 12, True), (1, 30, 50, False), (1, 20, 20, True)]


def saved_bytes(model: Pi05, batch: Batch, objective: ObjectiveConfig) -> int:
    """Bytes of the storages that autograd keeps, each once, parameters apart."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch, insulation=objective.insulation)
        total_loss(output, batch, objective, count(batch))
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("overrides", "dtype"),
    [
        (("experiment=demo_pretrain", "model=demo"), torch.float32),
        (("experiment=demo_posttrain", "model=demo"), torch.float32),
        (("experiment=demo_posttrain", "model=demo"), torch.bfloat16),
        (("experiment=demo_posttrain", "model=demo", "model.family=pi0"), torch.float32),
        (("experiment=demo_pretrain", "model=mid"), torch.float32),
        (("experiment=demo_posttrain", "model=mid"), torch.float32),
        (("experiment=demo_posttrain", "model=mid"), torch.bfloat16),
        (("experiment=demo_posttrain", "model=mid", "adaptation=openpi_lora"), torch.float32),
    ],
    ids=str,
)
def test_saved_bytes_are_forecast_within_a_tenth(overrides: tuple[str, ...], dtype: torch.dtype) -> None:
    planned = network(*overrides)
    config, objective = planned.config.model, planned.config.stage.objective
    model = Pi05(config, expert=objective.expert)
    adapt(model, planned.config.adaptation)
    model.init_weights(0)
    model.to(dtype)
    segments = [
        segment(images, prompt, target, acting and objective.expert, seed=i, config=config)
        for i, (images, prompt, target, acting) in enumerate(SHAPES)
    ]
    batch = pack(segments, config)
    load = Load.of(batch)
    forecast = saved_for_backward(load, planned, element=dtype.itemsize, cuda=False).saved + logits_saved(load, planned)
    assert forecast == pytest.approx(saved_bytes(model, batch, objective), rel=0.1)


def test_a_frozen_vision_tower_saves_nothing() -> None:
    """As autograd has it: nothing before the first trained layer is kept."""
    planned = network("model=demo", "experiment=demo_posttrain", "adaptation.freeze=[vision.*]")
    model = Pi05(planned.config.model, expert=True)
    model.init_weights(0)
    whole = pack([segment(*shape, seed=i, config=planned.config.model) for i, shape in enumerate(SHAPES)],
                 planned.config.model)  # fmt: skip
    before = saved_bytes(model, whole, planned.config.stage.objective)
    model.vision.requires_grad_(False)
    after = saved_bytes(model, whole, planned.config.stage.objective)
    load = Load.of(whole)
    plain = saved_for_backward(load, network("experiment=demo_posttrain"), element=4, cuda=False)
    frozen = saved_for_backward(load, planned, element=4, cuda=False)
    assert frozen.vision == 0
    assert plain.saved - frozen.saved == pytest.approx(before - after, rel=0.1)


def test_full_size_agrees_with_the_count_by_hand() -> None:
    """3.9 GB a sample for Gemma and SigLIP (the expert was left out); 0.13 GB of block inputs if checkpointed."""
    plain = saved_for_backward(CO_TRAINING, network(), element=2)
    assert plain.backbone / 1e9 == pytest.approx(3.1, rel=0.1)
    assert (plain.vision + plain.backbone) / 1e9 == pytest.approx(3.9, rel=0.1)
    assert saved_with_checkpointing(CO_TRAINING, network(), element=2).saved / 1e9 == pytest.approx(0.13, rel=0.1)


def test_insulated_flow_alone_keeps_the_expert_alone() -> None:
    planned = network("stage.objective.text=false", "mixture=paper_actions")
    kept = saved_for_backward(FLOW_ONLY, planned, element=2)
    assert (kept.vision, kept.backbone, kept.logits) == (0, 0, 0)
    assert kept.expert > 0
