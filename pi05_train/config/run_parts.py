"""How a run is stepped, where it is written and who is told: the configuration of engine and trainer."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError

ENGINES = ("single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW on fp32 masters. Backbone and expert are clipped separately, or together as in openpi."""

    name: str
    """"adamw"."""
    learning_rate: float
    """Peak of the schedule."""
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    """Decoupled, on every parameter."""
    clip_backbone: float
    """Largest gradient norm of the backbone, vision tower included."""
    clip_expert: float
    """Largest gradient norm of the action expert and its projections."""
    ema_decay: float | None
    """Share of the average kept per step, from step 0 on; null keeps no average."""
    clip_together: float | None = None
    """Largest gradient norm over backbone and expert as one, in place of the two limits above; null leaves these."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps; its peak is `optimizer.learning_rate`."""

    name: str
    """"warmup_constant", "warmup_cosine" or "warmup_rsqrt"."""
    warmup_steps: int
    """Linear from peak / (warmup_steps + 1) to the peak."""
    decay_steps: int
    """warmup_cosine: step at which it ends, warm-up included. warmup_rsqrt: steps after the warm-up at which the rate
    is the peak over the square root of 2. warmup_constant ignores it."""
    final_learning_rate: float
    """Rate after the cosine; the others ignore it."""


@dataclass(frozen=True)
class EngineConfig:
    """Which engine owns the parameters, and in which precision it computes."""

    name: str
    """One of `ENGINES`. single: one process, one device; ddp: every rank has the whole model; fsdp2: the ranks share
    one copy of weights, gradients, moments and average; hsdp: groups of ranks share one each; zero1, zero2, zero3:
    through DeepSpeed, the ranks share moments and average, gradients too, weights too."""
    precision: str
    """Compute precision, "fp32" or "bf16"; masters, gradients and optimizer state are fp32 either way."""
    device: str
    """"auto" (CUDA where there is one), "cpu" or "cuda"."""
    activation_checkpointing: str = "none"
    """What of every block is computed again for its backward pass: "none" of it; "selective": what lies between matrix
    products and attention; "full": everything but its inputs."""
    compile: bool = False
    """Every block through torch.compile: fewer and larger kernels, after a minute or two at the start."""
    cpu_offload: bool = False
    """fsdp2, hsdp, zero3: weights, gradients, moments and average live in the host's memory, and the optimizer steps
    there; zero1, zero2: all but the weights that the network computes with."""
    reshard_after_forward: bool = True
    """fsdp2, hsdp: free gathered weights after a block's forward and gather them again for its backward."""
    shard_ranks: int = 1
    """hsdp: neighbouring ranks that share one copy; best those of one machine."""


@dataclass(frozen=True)
class LoggerConfig:
    """Who is told about the run beside metrics.jsonl, and how often a row is written."""

    wandb: str
    """"offline" (files in the run folder), "online" or "disabled"; the variable WANDB_MODE wins."""
    project: str
    every_steps: int
    """Steps that one row of metrics covers."""
    tensorboard: bool = False
    """Event files in the run folder; needs the extra `tensorboard`."""
    examples_every_steps: int = 0
    """Steps between predictions for a few held-out samples, to look at; 0: none."""
    artifacts: bool = False
    """Checkpoints go to W&B too, each with the configuration."""


@dataclass(frozen=True)
class RunConfig:
    """One run: its folder, its length, its seed."""

    folder: str
    steps: int
    """Optimizer steps in all; raising it continues a finished run."""
    seed: int
    """Decides data order, augmentation, flow draws and initial weights."""
    start_from: str | None
    """Run folder or checkpoint whose weights begin this run; null starts from initial weights."""


def check_run_parts(
    optimizer: OptimizerConfig, schedule: ScheduleConfig, engine: EngineConfig, logger: LoggerConfig, run: RunConfig
) -> None:
    """Refuse values no run can have; each error names the key as written in YAML."""
    _one_of("optimizer.name", optimizer.name, ("adamw",))
    _one_of("schedule.name", schedule.name, ("warmup_constant", "warmup_cosine", "warmup_rsqrt"))
    _one_of("engine.name", engine.name, ENGINES)
    _one_of("engine.precision", engine.precision, ("fp32", "bf16"))
    _one_of("engine.device", engine.device, ("auto", "cpu", "cuda"))
    _one_of("engine.activation_checkpointing", engine.activation_checkpointing, ("none", "selective", "full"))
    if engine.compile and engine.activation_checkpointing == "selective":
        raise UserError(
            "engine.activation_checkpointing",
            got="selective, with engine.compile",
            expected="none or full: what is compiled computes again by itself what is cheap",
            do="set it to none",
        )
    if engine.name.startswith("zero"):
        _one_of("engine.activation_checkpointing", engine.activation_checkpointing, ("none",))
        if engine.compile:
            raise UserError("engine.compile", got=f"true with {engine.name}", expected="false", do="or choose fsdp2")
    if engine.cpu_offload and engine.name in ("single", "ddp"):
        raise UserError(
            "engine.cpu_offload",
            got=f"true with engine {engine.name}",
            expected="an engine that shards",
            do="choose fsdp2 (launch/torchrun.sh starts it on one device too), or set it to false",
        )
    _one_of("logger.wandb", logger.wandb, ("offline", "online", "disabled"))
    _at_least("engine.shard_ranks", engine.shard_ranks, 1)
    _at_least("run.steps", run.steps, 1)
    _at_least("logger.every_steps", logger.every_steps, 1)
    _at_least("logger.examples_every_steps", logger.examples_every_steps, 0)
    if logger.artifacts and logger.wandb == "disabled":
        raise UserError(
            "logger.artifacts", got="true, and W&B disabled", expected="W&B to send them to", do="choose one of the two"
        )
    if logger.examples_every_steps and engine.name not in ("single", "ddp"):
        raise UserError(
            "logger.examples_every_steps",
            got=f"{logger.examples_every_steps} with engine {engine.name}",
            expected="engine single or ddp, where one rank has the whole model",
            do="set it to 0",
        )
    _at_least("schedule.warmup_steps", schedule.warmup_steps, 0)
    if schedule.name == "warmup_cosine":
        _at_least("schedule.decay_steps", schedule.decay_steps, schedule.warmup_steps + 1)
    if schedule.name == "warmup_rsqrt":
        _at_least("schedule.decay_steps", schedule.decay_steps, 1)
    for key in ("learning_rate", "eps", "clip_backbone", "clip_expert"):
        if not getattr(optimizer, key) > 0:
            raise UserError(
                f"optimizer.{key}", got=getattr(optimizer, key), expected="a positive number", do="raise it"
            )
    together = optimizer.clip_together
    if together is not None and not together > 0:
        raise UserError("optimizer.clip_together", got=together, expected="null or a positive number", do="raise it")
    if not optimizer.weight_decay >= 0:
        raise UserError("optimizer.weight_decay", got=optimizer.weight_decay, expected="0 or more", do="correct it")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise UserError("optimizer.betas", got=optimizer.betas, expected="two numbers in [0, 1)", do="correct it")
    decay = optimizer.ema_decay
    if decay is not None and not 0 < decay < 1:
        raise UserError("optimizer.ema_decay", got=decay, expected="null or a number in (0, 1)", do="correct it")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(key, got=repr(value), expected="one of " + ", ".join(allowed), do="correct it")


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(key, got=value, expected=f"at least {least}", do="raise it")
