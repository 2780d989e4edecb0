"""From a packed prefix to actions and text; the prefix runs through the network once.

Shape letters: B segments, H horizon, D padded action dims, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05, PrefixCache


def denoise(
    model: Pi05, cache: PrefixCache, noise_BHD: Tensor, *, steps: int = 10, dims_BD: Tensor | None = None
) -> Iterator[tuple[float, Tensor]]:
    """Yield (t, x_t) from (1, noise) down to (0, actions): Euler's rule with dt = -1/steps.

    Runs while t >= -dt/2 with t accumulated in float32. Source: openpi src/openpi/models/pi0.py, sample_actions.

    `dims_BD` (bool) marks the dims that take part in the flow; the others are 0 throughout, as in training. None: all
    take part.
    """
    assert steps >= 1, steps
    dt = torch.tensor(-1.0 / steps, dtype=torch.float32)
    time = torch.tensor(1.0, dtype=torch.float32)
    x_BHD = noise_BHD if dims_BD is None else noise_BHD * dims_BD[:, None]
    yield 1.0, x_BHD
    while time >= -dt / 2:
        time_B = time.expand(x_BHD.shape[0]).to(x_BHD.device)
        velocity_BHD = model.velocity(cache, x_BHD, time_B).to(x_BHD.dtype)
        if dims_BD is not None:
            velocity_BHD = velocity_BHD * dims_BD[:, None]
        x_BHD = x_BHD + dt.item() * velocity_BHD
        time = time + dt
        yield time.item(), x_BHD


@torch.inference_mode()
def sample_actions(
    model: Pi05, batch: Batch, noise_BHD: Tensor, *, steps: int = 10, dims_BD: Tensor | None = None
) -> Tensor:
    """Normalised, padded action chunks [B, H, D] for a batch of prompts, from the given Gaussian noise."""
    x_BHD = noise_BHD
    for _, x_BHD in denoise(model, model.prefill(batch), noise_BHD, steps=steps, dims_BD=dims_BD):  # noqa: B007
        pass
    return x_BHD


@torch.inference_mode()
def generate_text(
    model: Pi05,
    batch: Batch,
    *,
    max_tokens: int,
    stop_id: int,
    forbidden: slice | None = None,
) -> list[list[int]]:
    """The most likely token, again and again, after every prefix: at most `max_tokens` ids each, without `stop_id`.

    `forbidden` is a range of ids that may not be written (the FAST ids where text is wanted).
    """
    cache = model.prefill(batch)
    logits_BV = cache.last_logits_BV
    written: list[list[int]] = [[] for _ in range(batch.num_segments)]
    running = [True] * batch.num_segments
    for _ in range(max_tokens):
        token_ids_B = _most_likely(logits_BV, forbidden)
        for segment, token in enumerate(token_ids_B.tolist()):
            running[segment] = running[segment] and token != stop_id
            if running[segment]:
                written[segment].append(token)
        if not any(running) or len(max(written, key=len)) == max_tokens:
            break
        # Finished segments keep decoding: their tokens are not read, and the batch keeps its shape.
        logits_BV = model.decode(cache, token_ids_B)
    return written


def _most_likely(logits_BV: Tensor, forbidden: slice | None) -> Tensor:
    if forbidden is not None:
        logits_BV = logits_BV.clone()
        logits_BV[:, forbidden] = float("-inf")
    return logits_BV.argmax(dim=-1)
