"""How a model is spread over the ranks, in one visible order: compiling, activation checkpointing, sharding.

The units are the blocks of the vision tower and the layers. A layer's backbone and expert are one unit, since they run
interleaved: their parameters are needed, gathered and freed together. What the expert has besides, its projections and
last norm, is a unit of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine.world import World
from pi05_train.errors import UserError
from pi05_train.model.compilation import compiled
from pi05_train.model.pi05 import Output, Pi05


@dataclass(frozen=True)
class Distributed:
    """A model on this rank's device, whose gradients are averaged over all ranks by the last backward of a step."""

    forward: Callable[..., Output]
    """`Pi05.forward`."""
    accumulating: Callable[[], AbstractContextManager[None]]
    """Entered around a forward and its backward: gradients stay on this rank, and nothing is communicated for them."""


def distribute(model: Pi05, engine: EngineConfig, world: World, device: torch.device) -> Distributed:
    """Spread `model` as `engine` says; its parameters stay fp32 and keep their names."""
    for block in _blocks(model):
        if engine.compile:  # the innermost wrapping: hooks and checkpoints stay outside what is compiled
            block.forward = compiled(block.forward, any_length=True)
        if engine.activation_checkpointing != "none":
            _checkpoint(block, engine)
    if engine.name in ("fsdp2", "hsdp"):
        return _shard(model, engine, _mesh(engine, world, device), device)
    model.to(device)
    if engine.name == "ddp":
        replicated = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return Distributed(replicated, replicated.no_sync)
    return Distributed(model, nullcontext)


def _blocks(model: Pi05) -> list[nn.Module]:
    return [*model.vision.blocks, *model.layers]


_KEPT = frozenset(
    {
        *("aten.mm", "aten.addmm", "aten.bmm", "torch_attn._varlen_attn"),
        *(f"aten._scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn")),
        "aten._scaled_dot_product_flash_attention_for_cpu",
    }
)
"""Operations whose results selective checkpointing keeps: products of matrices, and attention."""


def _checkpoint(block: nn.Module, engine: EngineConfig) -> None:
    """From now on the block keeps its inputs (selective: and the results of `_KEPT`) and computes the rest again.

    It draws nothing, so no random state is kept.
    """
    context: dict[str, Any] = {}
    if engine.activation_checkpointing == "selective":
        context["context_fn"] = partial(create_selective_checkpoint_contexts, _kept)
    block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False, **context)


def _kept(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    keep = str(operation.overloadpacket) in _KEPT
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _mesh(engine: EngineConfig, world: World, device: torch.device) -> DeviceMesh:
    """All ranks share one copy, or `engine.shard_ranks` neighbours each (hsdp)."""
    if engine.name == "fsdp2":
        return init_device_mesh(device.type, (world.size,))
    if world.size % engine.shard_ranks:
        raise UserError(
            "engine.shard_ranks",
            got=f"{engine.shard_ranks} of {world.size} ranks",
            expected="a divisor of the number of ranks",
            do="set it to the ranks of one machine",
        )
    replicas = world.size // engine.shard_ranks
    return init_device_mesh(device.type, (replicas, engine.shard_ranks), mesh_dim_names=("replicate", "shard"))


def _shard(model: Pi05, engine: EngineConfig, mesh: DeviceMesh, device: torch.device) -> Distributed:
    """Masters are fp32 shards; what is gathered of the large units is in the compute dtype, gradients add up in fp32.

    The small ends (pictures to patches, actions, times) are gathered in fp32: autocast leaves them in full precision.
    """
    # Every block returns views; nothing is ever added to one in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    compute = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    large = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    keep = CPUOffloadPolicy(pin_memory=device.type == "cuda") if engine.cpu_offload else OffloadPolicy()
    shard = partial(fully_shard, mesh=mesh, reshard_after_forward=engine.reshard_after_forward, offload_policy=keep)
    for block in _blocks(model):
        shard(block, mp_policy=large)
    shard(model.vision)
    if model.action is not None:
        shard(model.action)
        for method in ("embed", "velocity"):
            register_fsdp_forward_method(model.action, method)
    # The root's own are asked for first in the forward, last in it and first in the backward: never worth freeing.
    root = fully_shard(model, mesh=mesh, mp_policy=large, reshard_after_forward=False, offload_policy=keep)

    @contextmanager
    def accumulating() -> Iterator[None]:
        """Without resharding, units that are gathered stay so until the step's last backward."""
        _synchronise(root, engine, last=False)
        yield
        _synchronise(root, engine, last=True)

    return Distributed(model, accumulating)


def _synchronise(root: FSDPModule, engine: EngineConfig, *, last: bool) -> None:
    root.set_requires_gradient_sync(last)
    root.set_is_last_backward(last)
    if not engine.reshard_after_forward:
        root.set_reshard_after_backward(last)
