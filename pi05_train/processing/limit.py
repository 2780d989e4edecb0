"""The longest text a network reads: what is longer is cut on the right, as openpi does, and never in silence."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenSequence:
    """Ids of one example, without its image tokens."""

    prefix_ids: list[int]
    target_ids: list[int]


class TokenLimit:
    """At most `tokens` ids of text; one warning per source, in each process that reads it."""

    def __init__(self, tokens: int, *, with_target: bool) -> None:
        """`with_target`: prefix and target count together (pi0-FAST), not the prefix alone (pi0, pi0.5)."""
        self.tokens = tokens
        self.with_target = with_target
        self.samples_cut: Counter[str] = Counter()
        """How many samples of each source lost ids."""

    def cut(self, sequence: TokenSequence, source: str) -> TokenSequence:
        """The sequence within the limit."""
        prefix, target = sequence.prefix_ids, sequence.target_ids
        length = len(prefix) + (len(target) if self.with_target else 0)
        if length <= self.tokens:
            return sequence
        self.samples_cut[source] += 1
        if self.samples_cut[source] == 1:
            logger.warning(
                "source %s: a text of %d tokens is cut to model.max_prompt_tokens=%d; so will be any other that long.",
                source,
                length,
                self.tokens,
            )
        kept = prefix[: self.tokens]
        return TokenSequence(kept, target[: self.tokens - len(kept)] if self.with_target else target)
