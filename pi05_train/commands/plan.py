"""`pi05 plan`: what a run needs of a cluster, before anybody waits in a queue for it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.schema import Config
from pi05_train.trainer.planning.engines import ENGINES
from pi05_train.trainer.planning.forecast import CONTEXT_GIB, FRAGMENTATION, GIB, LINKS, SAVED, UTILISATION
from pi05_train.trainer.planning.job import PICTURE_BYTES, SAMPLE_BYTES, JobPlan, plan_job
from pi05_train.trainer.planning.lengths import ASSUMED_TOKENS

_DAY = 86_400


def plan(config: Config, cluster: ClusterConfig, *, engine: str | None = None) -> None:
    """Print the plan of a run on a cluster; `engine`: the one to show in detail."""
    job = plan_job(config, cluster, engine)
    console = Console(soft_wrap=True, highlight=False)
    wide = Console(width=max(console.width, 140), highlight=False)
    batch = config.data.global_batch_samples
    console.print(
        f"{config.run.folder}: {job.steps} steps of {batch} samples on {cluster.nodes} x {cluster.devices_per_node} "
        f"{cluster.device}: {cluster.world_size} ranks, samples of each in a step: {batch // cluster.world_size}",
        markup=False,
    )
    for table in (_parameters(job), _engines(job), _memory(job), _operations(job), _sources(job)):
        wide.print(table)
    for line in (*_store(job), "", *_advice(job), "", *_assumptions(job)):
        console.print(line, markup=False)


def _parameters(job: JobPlan) -> Table:
    table = _table("parameters", "part", "all", "trained", "of these LoRA's")
    for name, part in job.network.parts.items():
        table.add_row(name, f"{part.parameters:,}", f"{part.trained:,}", f"{part.lora:,}")
    table.add_section()
    lora = sum(part.lora for part in job.network.parts.values())
    table.add_row("together", f"{job.network.parameters:,}", f"{job.network.trained:,}", f"{lora:,}")
    return table


def _engines(job: JobPlan) -> Table:
    shown = job.shown
    size = (
        f"micro_batch_samples={shown.work.micro_batch}"
        if shown.work.micro_batch
        else "the budgets of data.micro_batch_*"
    )
    table = _table(
        f"engines, with {size}; micro-batches of a rank in a step: {shown.work.micro_batches}",
        "engine", "GiB a rank", f"of {job.device.memory_gib:.0f}", "most samples", "checkpointed", "GB sent a step",
        "seconds a step", "",
    )  # fmt: skip
    for fit in job.engines:
        forecast = fit.forecast
        table.add_row(
            forecast.engine,
            f"{forecast.memory().total / GIB:.1f}",
            "fits" if fit.fits else "too much",
            str(fit.most or "none"),
            str(fit.most_checkpointed or "none"),
            f"{forecast.traffic.total / 1e9:.1f}",
            "{:.2f} to {:.2f}".format(*forecast.seconds),
            ENGINES[forecast.engine].note,
        )
    return table


def _memory(job: JobPlan) -> Table:
    by_checkpointing = {name: job.shown.memory(name) for name in SAVED}
    memories = by_checkpointing.values()
    table = _table(
        f"memory of a rank, {job.shown.engine}, GiB, by engine.activation_checkpointing", "what", *by_checkpointing
    )
    state = job.shown.state
    for name, size in (
        ("weights, fp32", state.weights),
        ("gradients, fp32", state.gradients),
        ("optimizer, fp32", state.optimizer),
        ("averaged weights, fp32", state.average),
        (f"working copy, {job.config.engine.precision}", state.working_copy),
        ("collectives on their way", state.buffers),
    ):
        table.add_row(name, *(_gib(size) for _ in memories))
    table.add_section()
    for name in ("vision", "backbone", "expert"):
        table.add_row(f"activations, {name}", *(_gib(getattr(m.activations, name)) for m in memories))
    peaks = [max(m.activations.logits, m.activations.transient) for m in memories]
    table.add_row("logits, or one layer's gradients", *map(_gib, peaks))
    not_yet = [state.total + m.activations.peak - m.allocated for m in memories]
    table.add_row("gradients not yet there at the peak", *(f"-{_gib(size)}" for size in not_yet))
    table.add_row("context and fragmentation", *(_gib(m.allowance) for m in memories))
    table.add_section()
    table.add_row(f"together, of {job.device.memory_gib:.0f}", *(_gib(m.total) for m in memories))
    return table


def _operations(job: JobPlan) -> Table:
    flops = job.shown.work.flops
    whole = sum(flops.values())
    table = _table("operations of the slowest rank in a step, forward and backward", "part", "TFLOP", "share")
    for part, number in flops.items():
        table.add_row(part, f"{number / 1e12:.2f}", f"{number / whole:.1%}")
    table.add_section()
    table.add_row("together", f"{whole / 1e12:.2f}", "")
    return table


def _sources(job: JobPlan) -> Table:
    table = _table("over the whole run", "source", "kind", "samples", "tokens each", "", "tokens", "epochs")
    for source in job.sources:
        table.add_row(
            source.name,
            source.kind,
            f"{source.samples:,}",
            f"{source.tokens_per_sample:.0f}",
            "counted" if source.counted else "assumed",
            f"{source.tokens / 1e9:.2f} G",
            "unknown" if source.epochs is None else f"{source.epochs:.2f}",
        )
    return table


def _store(job: JobPlan) -> Iterator[str]:
    """Disk, requests and the length of the run."""
    quick, slow = job.shown.seconds
    checkpoint = job.config.checkpoint
    for_ever = f", and one for ever every {n} steps" if (n := checkpoint.keep_every_steps) else ""
    yield (
        f"The run takes {job.steps * quick / _DAY:.2f} to {job.steps * slow / _DAY:.2f} days with {job.shown.engine}."
    )
    yield (
        f"Disk: {job.disk_bytes / 1e9:.1f} GB; a checkpoint has {job.checkpoint_bytes / 1e9:.1f} GB, "
        f"{checkpoint.keep_last} are kept while the next one is written{for_ever}, every "
        f"{checkpoint.every_steps} steps or {checkpoint.every_steps * quick / 60:.0f} to "
        f"{checkpoint.every_steps * slow / 60:.0f} minutes."
    )
    yield (
        f"Store: at most {job.requests_per_step / quick:.0f} requests and {job.bytes_per_step / quick / 1e6:.1f} MB a "
        f"second from all nodes together (data.read_group={job.config.data.read_group} samples a request)."
    )


def _advice(job: JobPlan) -> Iterator[str]:
    best = job.suggested
    if best is None:
        yield "Suggested: activation checkpointing, or more devices: without, not even one sample at a time fits."
        return
    yield (
        f"Suggested: engine {best.engine}, data.micro_batch_samples={best.work.micro_batch}: "
        f"{best.memory().total / GIB:.1f} GiB, {best.seconds[0]:.2f} to {best.seconds[1]:.2f} seconds a step."
    )
    if not job.shown.fits(job.device):
        yield f"As configured, {job.shown.engine} does not fit: make micro-batches smaller."
    if best.seconds[0] > 2 * best.compute_seconds:
        yield (
            "More than half of a step is communication and the optimizer: use fewer devices, or a larger "
            "data.global_batch_samples."
        )


def _assumptions(job: JobPlan) -> Iterator[str]:
    """What was not measured."""
    yield "Assumed:"
    yield (
        f"  {UTILISATION[0]:.0%} to {UTILISATION[1]:.0%} of the device's peak; links at {LINKS[0]:.0%} to "
        f"{LINKS[1]:.0%} of their bandwidth, not overlapped in the worst case and wholly in the best."
    )
    yield f"  {CONTEXT_GIB:.0f} GiB of context, {FRAGMENTATION:.0%} lost to fragmentation; device: {job.device.source}."
    assumed = [source for source in job.sources if not source.counted]
    if assumed:
        kinds = sorted({source.kind for source in assumed})
        lengths = ", ".join("{} {} + {}".format(kind, *ASSUMED_TOKENS[kind]) for kind in kinds)
        yield f"  Prompt + target tokens of {len(assumed)} sources ({lengths}), and every camera of their cards."
        yield f"    {assumed[0].name}: {job.lengths.why_assumed[assumed[0].name]}"
        yield f"  {PICTURE_BYTES} bytes a stored picture and {SAMPLE_BYTES} for the rest, where no shards are there."


def _table(title: str, *columns: str) -> Table:
    """Numbers stand to the right, the first and an unnamed last column to the left."""
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 or not column else "right")
    return table


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
