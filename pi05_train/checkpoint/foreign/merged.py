"""Weights seen differently, one tensor at a time: with LoRA merged, in another dtype, for one robot, in part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from pi05_train.checkpoint.storage.source import DTYPES, TensorSource, TensorSpec
from pi05_train.errors import UserError
from pi05_train.model.adaptation import LORA_A, LORA_B, LoraRule, is_lora, rule_for
from pi05_train.model.lora import merged_weight


class Merged:
    """Our weights with every LoRA update added to the weight it belongs to."""

    def __init__(self, source: TensorSource, rules: Sequence[LoraRule]) -> None:
        self.where = source.where
        self.specs = {name: spec for name, spec in source.specs.items() if not is_lora(name)}
        self._source, self._rules = source, rules

    def read(self, name: str) -> Tensor:
        """The plain parameter, in the stored dtype."""
        module = name.removesuffix(".weight")
        weight = self._source.read(name)
        if f"{module}.{LORA_A}" not in self._source.specs:
            return weight
        rule = rule_for(module, self._rules)
        if rule is None:
            raise UserError(
                f"LoRA of {module} in {self.where}",
                got="no rule for it",
                expected="the adaptation of the run that trained it",
                do="keep config.yaml beside its checkpoints",
            )
        lora_a, lora_b = self._source.read(f"{module}.{LORA_A}"), self._source.read(f"{module}.{LORA_B}")
        return merged_weight(weight, lora_a, lora_b, rule)


class Cast:
    """The same tensors in another floating-point dtype."""

    def __init__(self, source: TensorSource, dtype: str) -> None:
        self.where = source.where
        self.specs = {name: TensorSpec(spec.shape, dtype) for name, spec in source.specs.items()}
        self._source, self._dtype = source, DTYPES[dtype]

    def read(self, name: str) -> Tensor:
        """The tensor, rounded to nearest where the new dtype is narrower."""
        return self._source.read(name).to(self._dtype)


class ForRobot:
    """The weights of one robot's policy: those that read action dims beyond its own are zero.

    In training these dims are 0 for the network; another runtime starts them with noise and moves them by outputs that
    nothing trained. Reading them with 0 gives the robot's own dims the actions they have here.
    """

    def __init__(self, source: TensorSource, action_dim: int) -> None:
        self.where, self.specs = source.where, source.specs
        self._source, self._action_dim = source, action_dim

    def read(self, name: str) -> Tensor:
        """The tensor, with zeros in the columns that read other robots' dims."""
        tensor = self._source.read(name)
        if name != "action.in_proj.weight":
            return tensor
        tensor = tensor.clone()
        tensor[:, self._action_dim :] = 0
        return tensor


class Part:
    """The tensors whose names are wanted."""

    def __init__(self, source: TensorSource, wanted: Callable[[str], bool]) -> None:
        self.where = source.where
        self.specs = {name: spec for name, spec in source.specs.items() if wanted(name)}
        self._source = source

    def read(self, name: str) -> Tensor:
        """The tensor as it is."""
        assert name in self.specs, name
        return self._source.read(name)
