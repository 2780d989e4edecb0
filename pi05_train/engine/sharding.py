"""How a model is spread over the ranks, in one visible order: activation checkpointing, then sharding.

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

import torch
from torch import nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine.world import World
from pi05_train.errors import UserError
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
    if engine.activation_checkpointing == "full":
        for block in _blocks(model):
            checkpoint(block)
    if engine.name in ("fsdp2", "hsdp"):
        return _shard(model, engine, _mesh(engine, world, device))
    model.to(device)
    if engine.name == "ddp":
        replicated = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return Distributed(replicated, replicated.no_sync)
    return Distributed(model, nullcontext)


def _blocks(model: Pi05) -> list[nn.Module]:
    return [*model.vision.blocks, *model.layers]


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


def _shard(model: Pi05, engine: EngineConfig, mesh: DeviceMesh) -> Distributed:
    """Masters are fp32 shards; what is gathered of the large units is in the compute dtype, gradients add up in fp32.

    The small ends (pictures to patches, actions, times) are gathered in fp32: autocast leaves them in full precision.
    """
    # Every block returns views; nothing is ever added to one in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    compute = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    large = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    shard = partial(fully_shard, mesh=mesh, reshard_after_forward=engine.reshard_after_forward)
    for block in _blocks(model):
        shard(block, mp_policy=large)
    shard(model.vision)
    if model.action is not None:
        shard(model.action)
        for method in ("embed", "velocity"):
            register_fsdp_forward_method(model.action, method)
    # The root's own are asked for first in the forward, last in it and first in the backward: never worth freeing.
    root = fully_shard(model, mesh=mesh, mp_policy=large, reshard_after_forward=False)

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
