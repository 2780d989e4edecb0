"""Full-size training steps on one GPU: samples per second, MFU, and memory against the forecast of `pi05 plan`.

The engine is the trainer's, with its optimizer, clipping, average and precision; weights are random, batches synthetic
and alike: three cameras, a prompt of 200 tokens and 100 target tokens, in the second stage with actions. FLOPs are
counted as in `pi05_train/trainer/flops.py`, three times the forward pass, whatever is computed again. Every case runs
in a process of its own; one that fails is reported, and the others go on. `agreement` trains the demo's model on the
CPU and on the GPU, from the same weights, on the same batches; `attention` compares the variable-length kernel with
float64.

Run on a machine with a GPU: python benchmarks/gpu_step.py [agreement] ["posttrain 16 compile" ...]
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from training_step import Shape, draw_batch, draw_shapes

from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.compose import compose_plan
from pi05_train.config.schema import Config
from pi05_train.engine.protocol import StepResult
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE, World, open_world
from pi05_train.model.attention import attend, ragged_call
from pi05_train.model.pi05 import Pi05
from pi05_train.trainer.devices import peak_flops
from pi05_train.trainer.flops import Load, training_flops
from pi05_train.trainer.planning.activations import compiled
from pi05_train.trainer.planning.engines import state
from pi05_train.trainer.planning.forecast import GIB, SAVED, Memory
from pi05_train.trainer.planning.network import Network

SAMPLE = Shape(cameras=3, prompt=200, target=100, actions=True)
CASES = (
    "attention",
    "agreement",
    "pretrain 16",
    "pretrain 20 compile",
    "posttrain 12",
    "posttrain 16 selective",
    "posttrain 16 compile",
    "posttrain 20 compile",
    "posttrain 32 full",
)
"""Stage, samples of a micro-batch, and how blocks are run."""
WARM_UP, STEPS = 3, 8
AGREEMENT_STEPS = 20
AGREEMENT = (
    "engine.device=cpu engine.precision=bf16",
    "engine.device=cuda engine.precision=fp32",
    "engine.device=cuda engine.precision=bf16",
    "engine.device=cuda engine.precision=bf16 engine.activation_checkpointing=selective",
    "engine.device=cuda engine.precision=bf16 engine.compile=true",
    "engine=fsdp2 engine.device=cuda engine.precision=bf16",
    "engine=fsdp2 engine.device=cuda engine.precision=fp32 engine.cpu_offload=true",
)


@dataclass(frozen=True)
class Case:
    """One stage at one size of micro-batches, with one way of running blocks."""

    stage: str
    micro_batch: int
    blocks: str

    @classmethod
    def parse(cls, words: str) -> Case:
        stage, micro_batch, *blocks = words.split()
        return cls(stage, int(micro_batch), " ".join(blocks))

    def config(self) -> tuple[Config, ClusterConfig]:
        """The shipped experiment of the stage, on one device."""
        checkpointing = next((word for word in ("selective", "full") if word in self.blocks), "none")
        return compose_plan(
            [
                *(f"experiment=pi05_{self.stage}", "run.start_from=null", "engine=single"),
                *("engine.precision=bf16", f"engine.activation_checkpointing={checkpointing}"),
                *(f"engine.compile={'compile' in self.blocks}", "cluster.nodes=1", "cluster.devices_per_node=1"),
            ]
        )


def measure(case: Case) -> None:
    """Print one line: speed and memory of the case."""
    (config, cluster), rng = case.config(), random.Random(0)
    objective = config.stage.objective
    with torch.device("cuda"):
        model = Pi05(config.model, expert=objective.expert)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    engine = PyTorchEngine(model, objective, config.optimizer, config.engine, ALONE)
    shapes = [replace(SAMPLE, actions=objective.expert)] * case.micro_batch
    batches = [draw_batch(shapes, config.model, rng) for _ in range(2)]
    seconds: list[float] = []
    results = []
    for step in range(WARM_UP + STEPS):
        with timed(seconds):
            results.append(engine.train_step([batches[step % 2]], learning_rate=1e-5))
    free, whole = torch.cuda.mem_get_info()
    median = statistics.median(seconds[WARM_UP:])
    flops, peak = training_flops(batches[0], config.model), peak_flops(engine.device_name)
    expected = forecast(config, cluster, Load.of(batches[0]))
    print(
        f"{case.stage:9} {case.micro_batch:3} {case.blocks or 'eager':10} {median * 1e3:6.0f} ms "
        f"{case.micro_batch / median:5.1f} samples/s {flops / median / 1e12:4.0f} TFLOP/s "
        f"MFU {'?' if peak is None else f'{flops / median / peak:.1%}'}; "
        f"GiB allocated {torch.cuda.max_memory_allocated() / GIB:.1f} (forecast {expected.allocated / GIB:.1f}), "
        f"in use {(whole - free) / GIB:.1f} (forecast {expected.total / GIB:.1f}); "
        f"loss {results[0].loss:.3f} to {results[-1].loss:.3f}; first steps {sum(seconds[:WARM_UP]):.0f} s",
        flush=True,
    )


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Append how long the device works on what is asked for inside."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    yield
    torch.cuda.synchronize()
    seconds.append(time.perf_counter() - start)


def forecast(config: Config, cluster: ClusterConfig, load: Load) -> Memory:
    """What `pi05 plan` expects of a step with this one micro-batch."""
    network = Network.of(config)
    activations = SAVED[config.engine.activation_checkpointing](load, network, element=2)
    if config.engine.compile:
        activations = compiled(activations)
    return Memory(state("single", network, cluster, micro_batches=1), activations)


def agreement() -> None:
    """Print how far losses and gradient norms are from those of the CPU in fp32."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    os.environ.update(alone)
    with open_world() as world:
        on_cpu = trained(world, "engine.device=cpu", "engine.precision=fp32")
        print(f"largest relative difference from cpu fp32 over {AGREEMENT_STEPS} steps: loss, backbone and expert norm")
        for overrides in AGREEMENT:
            results = trained(world, *overrides.split())
            differences = [
                max(abs(getattr(a, name) / getattr(b, name) - 1) for a, b in zip(results, on_cpu, strict=True))
                for name in ("loss", "backbone_norm", "expert_norm")
            ]
            print("  {:.1e} {:.1e} {:.1e}  ".format(*differences) + overrides, flush=True)


def attention() -> None:
    """Print how far the variable-length kernel is from float64 on ragged calls of full size, forward and gradients."""
    generator = torch.Generator("cuda").manual_seed(0)
    cuda = torch.device("cuda")
    for name, queries, keys in (("prefix", (300, 968, 17), 0), ("target", (1, 100, 60), 700), ("one", (1, 1, 1), 968)):
        lengths = [query + keys for query in queries]
        starts, key_starts = (np.cumsum([0, *sizes])[:-1].tolist() for sizes in (queries, lengths))
        call = ragged_call(
            list(zip(starts, queries, strict=True)),
            [[span] for span in zip(key_starts, lengths, strict=True)],
            causal=keys > 0,
            device=cuda,
        )
        inputs = [
            torch.randn(rows, heads, 256, device=cuda, generator=generator)
            for rows, heads in ((sum(queries), 8), (sum(lengths), 1), (sum(lengths), 1))
        ]
        found = []
        for dtype in (torch.bfloat16, torch.float64):
            q, k, v = (x.bfloat16().to(dtype).requires_grad_() for x in inputs)
            attended = attend(q, k, v, call)
            gradients = torch.autograd.grad(attended.square().sum(), (q, k, v))
            found.append([x.detach().double() for x in (attended, *gradients)])
        errors = [float((ours - exact).norm() / exact.norm()) for ours, exact in zip(*found, strict=True)]
        print(f"attention, {name}: relative error of the output and of the gradients of q, k, v", end=" ")
        print(" ".join(f"{error:.1e}" for error in errors), flush=True)


def trained(world: World, *overrides: str) -> list[StepResult]:
    """Of the demo's second stage on random samples of many lengths, some with actions."""
    config, _ = compose_plan(["experiment=demo_posttrain", *overrides])
    model, rng = Pi05(config.model, expert=True), random.Random(0)
    model.init_weights(0)
    engine = PyTorchEngine(model, config.stage.objective, config.optimizer, config.engine, world)
    batches = [draw_batch(draw_shapes(8, rng), config.model, rng) for _ in range(AGREEMENT_STEPS)]
    return [engine.train_step([batch], learning_rate=1e-4) for batch in batches]


def main() -> None:
    """Run the cases asked for, or one of them alone in this process."""
    asked = sys.argv[1:] or list(CASES)
    if len(asked) == 1:
        alone = {"agreement": agreement, "attention": attention}
        alone[asked[0]]() if asked[0] in alone else measure(Case.parse(asked[0]))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"torch {torch.__version__}, {device}; median of {STEPS} steps after {WARM_UP}", flush=True)
    for words in asked:
        ended = subprocess.run([sys.executable, __file__, words], stderr=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            print(f"{words}: failed\n{ended.stderr[-3000:]}", flush=True)


if __name__ == "__main__":
    main()
