"""The latest requests in a folder, with seed and subtask, so that somebody can see why a robot did what it did."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from pi05_train.errors import UserError
from pi05_train.policy.server.wire import pack
from pi05_train.samples.robot_card import SEED, SUBTASK

MOST = 100
"""Files in the folder."""


class KeptRequests:
    """A folder with the latest `most` requests, as frames that `pi05 explain --observation` reads."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        """What former servers kept there counts; refuses (UserError) a folder that cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"--keep-requests {folder}"
            raise UserError(what, got=error, expected="a folder to write into", do="choose another") from error
        self.folder, self.most = folder, most
        self._files = deque(sorted(folder.glob("*-client-*-request-*.msgpack")))
        self._one_at_a_time = threading.Lock()

    def keep(
        self, observation: Mapping[str, object], seed: int, subtask: str = "", *, client: int, request: int
    ) -> None:
        """Write one and delete the oldest beyond `most`; raises OSError. May be called from several threads.

        `subtask` is what was done; "": the command.
        """
        frame = pack({**observation, SEED: seed} | ({SUBTASK: subtask} if subtask else {}))
        with self._one_at_a_time:
            path = self.folder / f"{time.time_ns() // 10**6}-client-{client}-request-{request}.msgpack"
            path.write_bytes(frame)
            self._files.append(path)
            while len(self._files) > self.most:
                self._files.popleft().unlink(missing_ok=True)
