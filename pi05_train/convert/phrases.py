"""Spoken instructions in fixed words, for subtasks that nobody was recorded asking for.

They stand in for the paper's verbal instructions (section IV-D) where only subtask labels are public: the label is that
of the robot's data, the words around it are these.
"""

from __future__ import annotations

import hashlib

from pi05_train.convert.annotation_file import Segment
from pi05_train.samples.schema import Sample

PHRASES = ("{}", "please {}", "now {}", "could you {}?", "next, {}", "I would like you to {}")


def asked_for(sample: Sample) -> Segment | None:
    """A segment of the sample's frame alone, in which a person asks for its subtask; None where it has none.

    A hash of episode and subtask chooses the phrase, so that it stays the same as long as the subtask lasts.
    """
    subtask = sample.subtask.strip()
    if not subtask:
        return None
    digest = hashlib.sha256(f"phrase/{sample.episode}/{subtask}".encode()).digest()
    phrase = PHRASES[int.from_bytes(digest[:8], "big") % len(PHRASES)]
    words = subtask.rstrip(".")
    return Segment(sample.frame, sample.frame + 1, subtask, phrase.format(words[:1].lower() + words[1:]))
