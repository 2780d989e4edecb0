"""A whole job, planned: what it draws, computes, keeps and asks of its store; which engine and size suit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.schema import Config
from pi05_train.data.order.outlook import Outlook
from pi05_train.data.order.schedule import Schedule
from pi05_train.errors import UserError
from pi05_train.trainer.devices import Device, device_named
from pi05_train.trainer.planning.engines import ENGINES
from pi05_train.trainer.planning.forecast import GIB, Forecast, Forecaster, best
from pi05_train.trainer.planning.lengths import Lengths, sampled
from pi05_train.trainer.planning.network import Network

PICTURE_BYTES, SAMPLE_BYTES = 20_000, 2_000
"""Assumed of a stored picture and of the rest of a sample, where no index tells."""


@dataclass(frozen=True)
class SourcePlan:
    """One source over the whole run."""

    name: str
    kind: str
    samples: int
    tokens_per_sample: float
    """Image, prompt and target tokens, in the mean."""
    counted: bool
    """Whether tokens were counted; else they are assumed."""
    epochs: float | None
    """None: its rows are not known."""
    bytes_per_sample: float

    @property
    def tokens(self) -> float:
        return self.samples * self.tokens_per_sample


@dataclass(frozen=True)
class Fit:
    """An engine at the micro-batch that the configuration asks for, and the largest that would fit (0: none)."""

    forecast: Forecast
    fits: bool
    most: int
    most_checkpointed: int


@dataclass(frozen=True)
class JobPlan:
    """Everything that is printed."""

    config: Config
    cluster: ClusterConfig
    device: Device
    network: Network
    steps: int
    lengths: Lengths
    sources: tuple[SourcePlan, ...]
    engines: tuple[Fit, ...]
    shown: Forecast
    """The engine and size that are printed in detail."""
    suggested: Forecast | None
    """The quickest that fits, with activation checkpointing as configured; None: nothing does."""

    @property
    def checkpoint_bytes(self) -> float:
        """Weights, the optimizer's moments of what trains, and the averaged weights, all fp32."""
        average = self.config.optimizer.ema_decay is not None
        return 4.0 * (self.network.parameters * (1 + average) + 2 * self.network.trained)

    @property
    def disk_bytes(self) -> float:
        """Of the checkpoints that are kept, and the one being written."""
        checkpoint = self.config.checkpoint
        saved = -(-self.steps // checkpoint.every_steps)
        for_ever = self.steps // checkpoint.keep_every_steps if checkpoint.keep_every_steps else 0
        return self.checkpoint_bytes * min(saved, checkpoint.keep_last + 1 + for_ever)

    @property
    def requests_per_step(self) -> float:
        """Ranges asked of the store: neighbours that are drawn together come in one."""
        return self.config.data.global_batch_samples / self.config.data.read_group

    @property
    def bytes_per_step(self) -> float:
        """Read from the store."""
        return sum(source.samples * source.bytes_per_sample for source in self.sources) / self.steps


def plan_job(config: Config, cluster: ClusterConfig, engine: str | None = None) -> JobPlan:
    """The plan; `engine` (a name in `ENGINES`) is shown instead of the suggested one.

    Refuses (UserError) an unknown device or engine, a batch that the ranks do not divide, and a job that fits no way.
    """
    device = device_named(cluster.device)
    _check_batch(config, cluster)
    _check_engine(engine, cluster)
    network = Network.of(config)
    outlook = Outlook.of(config)
    schedule = outlook.schedule(
        config.run.seed, config.data.global_batch_samples, config.run.steps, read_group=config.data.read_group
    )
    steps = config.run.steps if schedule.end_step is None else schedule.end_step
    lengths = Lengths.of(config, outlook)
    forecaster = Forecaster(config, cluster, network, sampled(lengths, schedule, steps))
    if engine is not None and engine not in forecaster.engines():
        raise _no_use(engine, forecaster)
    sizes, at_asked = forecaster.sizes(), forecaster.work(forecaster.asked)
    by_size = {name: [forecaster.forecast(name, work) for work in sizes] for name in forecaster.engines()}
    considered = by_size if engine is None else {engine: by_size[engine]}
    _check_fits(considered, forecaster, chosen=engine is not None)
    asked = {name: forecaster.forecast(name, at_asked) for name in by_size}
    fitting = [forecast for forecasts in considered.values() for forecast in forecasts if forecast.fits(device)]
    suggested = best(fitting) if fitting else None
    return JobPlan(
        config=config,
        cluster=cluster,
        device=device,
        network=network,
        steps=steps,
        lengths=lengths,
        sources=_sources(lengths, schedule, steps),
        engines=tuple(_fit(asked[name], by_size[name], device) for name in asked),
        shown=asked[engine or (suggested or min(asked.values(), key=lambda f: f.memory().total)).engine],
        suggested=suggested,
    )


def _fit(asked: Forecast, by_size: Sequence[Forecast], device: Device) -> Fit:
    """`by_size`: the largest micro-batch first."""
    most = (f.work.micro_batch or 0 for f in by_size if f.fits(device))
    checkpointed = (f.work.micro_batch or 0 for f in by_size if f.fits(device, "full"))
    return Fit(asked, asked.fits(device), next(most, 0), next(checkpointed, 0))


def _sources(lengths: Lengths, schedule: Schedule, steps: int) -> tuple[SourcePlan, ...]:
    counts, epochs = schedule.counts(steps), schedule.epochs(steps)
    outlook, plans = lengths.outlook, []
    for name, card in outlook.cards.items():
        if outlook.opened is not None and name in outlook.opened.names:
            size = float(outlook.opened.indexes[name].records["length"].mean())
        else:
            size = SAMPLE_BYTES + PICTURE_BYTES * lengths.mean(name)[0]
        seen = epochs[name] if outlook.rows[name] else None
        counted = name in lengths.counted
        plans.append(SourcePlan(name, card.kind, counts[name], lengths.tokens(name), counted, seen, size))
    return tuple(plans)


def _check_batch(config: Config, cluster: ClusterConfig) -> None:
    batch, world = config.data.global_batch_samples, cluster.world_size
    if batch % world:
        near = sorted({max(batch // world, 1) * world, (batch // world + 1) * world})
        raise UserError(
            "data.global_batch_samples",
            got=f"{batch} over {world} ranks ({cluster.nodes} nodes of {cluster.devices_per_node})",
            expected="a multiple of the number of ranks",
            do=f"set it to {' or '.join(map(str, near))}, or change the number of nodes",
        )


def _check_engine(engine: str | None, cluster: ClusterConfig) -> None:
    if engine is not None and engine not in ENGINES:
        raise UserError("--engine", got=repr(engine), expected="one of " + ", ".join(ENGINES), do="correct it")
    if engine == "single" and cluster.world_size > 1:
        raise UserError(
            "--engine",
            got=f"single on {cluster.world_size} devices",
            expected="one device",
            do="choose another engine, or set cluster.nodes=1 cluster.devices_per_node=1",
        )


def _no_use(engine: str, forecaster: Forecaster) -> UserError:
    cluster = forecaster.cluster
    return UserError(
        "--engine",
        got=f"{engine} on {cluster.nodes} nodes of {cluster.devices_per_node} devices",
        expected="one of " + ", ".join(forecaster.engines()),
        do="choose one of them, or another cluster",
    )


def _check_fits(by_size: dict[str, list[Forecast]], forecaster: Forecaster, *, chosen: bool) -> None:
    """Refuse what has no room even one sample at a time, computing every block again; `chosen`: there are others."""
    device = forecaster.device
    smallest = min((forecasts[-1] for forecasts in by_size.values()), key=lambda f: f.memory("full").total)
    if not smallest.fits(device, "full"):
        raise UserError(
            f"memory of {forecaster.cluster.device}",
            got=f"{device.memory_gib:.0f} GiB",
            expected=f"at least {smallest.memory('full').total / GIB:.1f} GiB, which the job takes even with engine "
            f"{smallest.engine}, one sample per micro-batch and full activation checkpointing",
            do="choose another engine or device" if chosen else "take more or larger devices, or freeze more",
        )
