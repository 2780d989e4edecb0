"""What ZeRO has made of a model's parameters: flat fp32 shards, and how they are read and written by parameter name.

ZeRO concatenates the trained parameters of a group and cuts them at places that depend on stage and number of ranks.
Nothing outside the ZeRO engines sees that: values come and go as whole tensors, one parameter at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm


class Shards:
    """The shards of one rank. Reading and writing are for all ranks together, in the same order."""

    def __init__(self, deepspeed: Any, zero: Any, *, stage: int, offload: bool) -> None:
        """`zero` is the optimizer that `deepspeed.initialize` made; `offload`: it keeps the masters on the host."""
        self._api, self._gathered = deepspeed.utils, deepspeed.zero.GatheredParameters
        self._zero = zero
        self._whole = stage < 3
        self._offload = offload

    @property
    def masters(self) -> list[Tensor]:
        """The flat fp32 weights, which the optimizer steps and keeps its state of."""
        name = "single_partition_of_fp32_groups" if self._whole else "fp32_partitioned_groups_flat"
        masters: list[Tensor] = getattr(self._zero, name)
        return masters

    def link_states(self) -> None:
        """Call it once the optimizer has a state for every master: ZeRO-1 and 2 look no earlier than at a step."""
        if self._whole:
            self._zero._lazy_init_hp_params_optimizer_state()

    def squared_gradient_norms(self, groups: int) -> Tensor:
        """Of this rank's shards, over the gradients of each of the optimizer's groups; after the last backward."""
        squares = torch.zeros(groups, device=self.masters[0].device)
        for place, master in enumerate(self.masters):
            group = place if self._whole else self._zero.sub_group_to_group_id[place]
            gradients: list[Any] = [master.grad] if self._offload else self._zero.averaged_gradients[place]
            squares[group] += get_total_norm(gradients).square()
        return squares

    def read(self, parameter: Parameter, state: str | None = None) -> Tensor:
        """The whole fp32 weight, or its optimizer state of that name."""
        if not parameter.requires_grad:
            with self._gathered([parameter]):
                return parameter.detach().clone()
        if state is None:
            value: Tensor = self._api.safe_get_full_fp32_param(parameter)
        else:
            value = self._api.safe_get_full_optimizer_state(parameter, state)
        return value.detach()

    def write(self, parameter: Parameter, value: Tensor, state: str | None = None) -> None:
        """The reverse of `read`. Call `publish` after the last weight."""
        value = value.to(parameter.device)
        if not parameter.requires_grad:
            with self._gathered([parameter], modifier_rank=0):
                parameter.copy_(value)
        elif state is None:
            self._api.safe_set_full_fp32_param(parameter, value)
        else:
            self._api.safe_set_full_optimizer_state(parameter, value, state)

    def publish(self) -> None:
        """Bring what was written into the weights that the network computes with, as the end of a step does."""
        zero = self._zero
        if self._whole:
            zero.update_lp_params()
            return
        zero._partition_all_parameters()
        for place in range(len(self.masters)):
            zero._reassign_or_swap_out_partitioned_parameters(place)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
