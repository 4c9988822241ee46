"""What is published, and how fast: the arguments of every publisher, `publish COUNT PER_SECOND BYTES WORKSPACES`; 0 per second = at once."""

import sys
import time
from collections.abc import Iterator


class Flow:
    def __init__(self) -> None:
        count, per_second, size, workspaces = sys.argv[2:6]
        self.count, self.per_second = int(count), float(per_second)
        self.workspaces = int(workspaces)
        # About what the fields beside it take.
        self.padding = "x" * max(0, int(size) - 80)

    def numbers(self) -> Iterator[int]:
        """One number per task, each when its time has come."""
        began = time.monotonic()
        for number in range(self.count):
            if self.per_second:
                time.sleep(max(0.0, began + number / self.per_second - time.monotonic()))
            yield number

    def workspace(self, number: int) -> str:
        return f"ws-{number % self.workspaces}"
