"""From packed prompts to actions: Euler's rule on the flow, the prefix runs through the network once.

Shape letters: B segments, H horizon, D padded action dims, T flow times.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.graphs import Recorded
from pi05_train.policy.guidance import Flow, Guidance, GuidedFlow
from pi05_train.policy.inputs import Inputs, make_inputs, make_shaped_inputs


class Sampler:
    """Chunks of normalised, padded actions for batches of prompts.

    With `graphs` (CUDA, half precision) all work on the device is a CUDA graph, recorded once per shape. The network
    may be trained further in between: a replay reads the weights as they are then.
    """

    def __init__(self, model: Pi05, *, steps: int = 10, graphs: bool = False) -> None:
        self.model = model
        self.steps = steps
        self.recorded = Recorded(self._run) if graphs else None

    @torch.inference_mode()
    def actions(self, batch: Batch, noise_BHD: Tensor, dims_BD: Tensor | None = None) -> Tensor:
        """Chunks [B, H, D] from the given Gaussian noise.

        `dims_BD` (bool) marks the dims that take part in the flow; the others are 0 throughout, as in training. None:
        all take part.
        """
        parts = self.model, batch, noise_BHD, _dims(noise_BHD, dims_BD), _velocity_times(self.steps, noise_BHD.device)
        if self.recorded is None:
            return self._run(make_inputs(*parts))
        return self.recorded(make_shaped_inputs(*parts))

    @torch.no_grad()  # and not inference_mode: gradients go through what the prefix left
    def guided_actions(self, batch: Batch, noise_BHD: Tensor, dims_BD: Tensor, guidance: Guidance) -> Tensor:
        """Chunks [B, H, D] that go on with former ones. Never from a CUDA graph: every step has a backward pass."""
        times_T = _velocity_times(self.steps, noise_BHD.device)
        return self._run(make_inputs(self.model, batch, noise_BHD, dims_BD, times_T), guidance)

    @torch.no_grad()
    def path(
        self, batch: Batch, noise_BHD: Tensor, dims_BD: Tensor | None = None, guidance: Guidance | None = None
    ) -> Iterator[tuple[float, Tensor, Tensor | None]]:
        """Yield (t, x_t, the velocity that led there) from (1, noise, None) down to (0, actions, the last velocity).

        With `guidance` velocities are bent towards former chunks.
        """
        dims_BD = _dims(noise_BHD, dims_BD)
        times = _velocity_times(self.steps, noise_BHD.device)
        flow: Flow = self.model.denoiser(self.model.prefill(batch), times)
        if guidance is not None:
            flow = GuidedFlow(flow, guidance, flow_times(self.steps)[:-1])
        steps = euler(flow, noise_BHD, dims_BD, self.steps)
        for time, (x_BHD, velocity_BHD) in zip(flow_times(self.steps), steps, strict=True):
            yield time, x_BHD, velocity_BHD

    def _run(self, inputs: Inputs, guidance: Guidance | None = None) -> Tensor:
        """No host reads anything here, so that it can be recorded."""
        model = self.model
        x_NW = model.join(model.vision(inputs.images_ICHW), inputs.image_rows_V, inputs.token_ids_N)
        _, memory = model.read_prefix(x_NW, inputs.prefix)
        flow: Flow = model.planned_denoiser(memory, inputs.states_BD, inputs.times_T, inputs.denoising)
        if guidance is not None:
            flow = GuidedFlow(flow, guidance, flow_times(self.steps)[:-1])
        *_, (x_BHD, _) = euler(flow, inputs.noise_BHD, inputs.dims_BD, self.steps)
        return x_BHD


def euler(flow: Flow, noise_BHD: Tensor, dims_BD: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield x_t from the noise to the actions, each with the velocity that led there: Euler's rule with dt = -1/steps.

    Source: openpi src/openpi/models/pi0.py, sample_actions.
    """
    x_BHD = noise_BHD * dims_BD[:, None]
    yield x_BHD, None
    for step in range(steps):
        velocity_BHD = flow.velocity(x_BHD, step).to(x_BHD.dtype) * dims_BD[:, None]
        x_BHD = x_BHD - velocity_BHD / steps
        yield x_BHD, velocity_BHD


def flow_times(steps: int) -> list[float]:
    """From 1 in `steps` steps to (about) 0, accumulated in float32 as openpi does."""
    assert steps >= 1, steps
    dt, time = torch.tensor(-1.0 / steps), torch.tensor(1.0)
    times = [1.0]
    for _ in range(steps):
        time = time + dt
        times.append(time.item())
    return times


def _velocity_times(steps: int, device: torch.device) -> Tensor:
    return torch.tensor(flow_times(steps)[:-1], device=device)


def _dims(noise_BHD: Tensor, dims_BD: Tensor | None) -> Tensor:
    if dims_BD is not None:
        return dims_BD
    return torch.ones(len(noise_BHD), noise_BHD.shape[-1], dtype=torch.bool, device=noise_BHD.device)
