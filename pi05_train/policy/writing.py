"""Text from a packed prefix; the prefix runs through the network once.

Shape letters: B segments, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05


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
    logits_BV = model.first_logits(cache)
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
