"""Drives `sdk_client.py`: one official Python SDK client per process."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


class SdkClient:
    """`await client.do("connect", url=..., token=...)`; raises RuntimeError with the client's error."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> "SdkClient":
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("sdk_client.py")),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            limit=1 << 24,
        )  # fmt: skip
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def do(self, order: str, *, within_s: float = 30, **arguments: Any) -> Any:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        async with self._lock, asyncio.timeout(within_s):
            self.process.stdin.write(json.dumps({"do": order, **arguments}).encode() + b"\n")
            await self.process.stdin.drain()
            line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client process ended during {order}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{order}: {answer['error']}")
        return answer["ok"]

    async def until(self, what: Any, within_s: float = 20) -> dict[str, Any]:
        """Poll the state until `what(state)` holds; returns it. AssertionError with the last state otherwise."""
        state: dict[str, Any] = {}
        try:
            async with asyncio.timeout(within_s):
                while True:
                    state = await self.do("state")
                    if what(state):
                        return state
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s; last state: {state}") from None

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
