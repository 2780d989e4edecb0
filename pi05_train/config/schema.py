"""The whole configuration of a run, gathered from the rooms' own dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.config.run_parts import EngineConfig, LoggerConfig, OptimizerConfig, RunConfig, ScheduleConfig
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.normalisation import check_kind
from pi05_train.processing.templates import Templates
from pi05_train.samples.address import PATIENCE_SECONDS
from pi05_train.samples.mixture_config import MixtureConfig


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizers: a name under `tokenizers/`, or a folder that `pi05 tokenizer fit` wrote."""

    text: str
    fast: str
    fast_native_dims: bool = False
    """FAST sees a source's own action dims instead of the model's padded ones (pi0-FAST's weights)."""


@dataclass(frozen=True)
class StageConfig:
    """A weighting of the one objective."""

    name: str
    objective: ObjectiveConfig


@dataclass(frozen=True)
class DataConfig:
    """How samples reach the network."""

    root: str
    """Folder or address (s3://, gs://, https://) that the cards' relative `shards` start from."""
    global_batch_samples: int
    """Samples per optimizer step, over all ranks and micro-steps."""
    micro_batch_samples: int
    """Samples per forward pass, where no budget below is set; lowers memory, never changes numbers beyond rounding."""
    workers: int
    """Loader processes; never changes which samples are seen."""
    cache: str | None = None
    """Folder of this machine for what can be made again; None: `$XDG_CACHE_HOME/pi05_train` or `~/.cache/pi05_train`.
    """
    cache_gigabytes: float = 0.0
    """How much of remote shards is kept there once it has been read; 0: nothing."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long a remote store may fail to answer before the run stops."""
    prefetch_batches: int = 2
    """Micro-batches that every loader process prepares ahead."""
    read_group: int = 1
    """Samples, neighbours in their shard, that are drawn together: shards far away are then read in larger pieces."""
    normalisation: str = "quantile"
    """How states and actions are scaled: "quantile" (pi0.5, pi0-FAST) or "z_score" (pi0)."""
    micro_batch_tokens: int | None = None
    """Most image, prompt and target tokens per forward pass; needs the counts of `pi05 data count`. Numbers stay."""
    micro_batch_images: int | None = None
    """Most pictures per forward pass, beside or in place of the token budget."""

    def __post_init__(self) -> None:
        check_kind(self.normalisation)
        limits = {"cache_gigabytes": 0, "patience_seconds": 0, "prefetch_batches": 1}
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                got = getattr(self, name)
                raise UserError(f"data.{name}", got=got, expected=f"a number of at least {least}", do="correct it")


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out evaluation and closed-loop rollouts."""

    samples_per_source: int
    """Held-out samples per source."""
    euler_steps: int
    """Denoising steps (paper: 10)."""
    max_text_tokens: int
    """Longest generated answer."""
    episodes_per_task: int
    """Closed-loop episodes per task; 0 leaves the simulators alone."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    run: RunConfig
    model: ModelConfig
    stage: StageConfig
    mixture: MixtureConfig
    tokenizer: TokenizerConfig
    templates: Templates
    augmentation: AugmentationConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    engine: EngineConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    evaluation: EvaluationConfig
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
