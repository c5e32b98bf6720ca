"""Where a loaded server's time goes: samples of every thread, sorted into the kernel's UDP stack, AES and the rest.

    python -m benchmarks.profile [--scenario audio] [--subscribers 375] [--seconds 10]

Needs Linux' `perf` and leave to use it (root, or kernel.perf_event_paranoid <= 0 and readable kernel symbols). The load
is `tertulia bench`; its own processes are not in the profile. The whole machine is sampled and the server's samples are
taken out: a counter of one process is stopped and started at each of its task switches, and this is charged to it (a
tenth of all, here). A kernel sample belongs to the UDP stack when a socket's send or receive call, or a soft interrupt
(999 of 1000 in a loaded server are the network's, `irq:softirq_entry` says), is among its callers: on loopback the
receiver's half of each datagram is charged to the sender.
"""

import argparse
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.load.server import OwnServer

SAMPLES_PER_SECOND = 997
JOINS_PER_SECOND = 40
SETTLE_S = 6
"""After the last join: key frames have gone out, estimates have risen."""
BUDGET = 0.75
UDP_CALLS = re.compile(
    r"sendmmsg|sendmsg|sendto|recvmmsg|recvmsg|recvfrom|handle_softirqs|net_rx_action|process_backlog|udp_"
)
AES = re.compile(r"aes|gcm|ghash|skip_iv_len_12_init_IV", re.IGNORECASE)
"""The last is a label inside OpenSSL's `ossl_aes_gcm_setiv_avx512` that perf takes for a function."""
PLANE = re.compile(r"/plane/(compiled/)?[a-z_]+\.[^/]*\.so$")
UDP, CIPHER = "kernel, UDP stack", "AES-GCM"


def part_of(frames: list[tuple[str, str]]) -> str:
    """The part that a sample belongs to; frames are (symbol, object), the innermost first."""
    symbol, where = frames[0]
    if "kernel" in where or where == "[unknown]":
        return UDP if any(UDP_CALLS.search(name) for name, _ in frames) else "kernel, the rest"
    library = where.rsplit("/", 1)[-1]
    if library.startswith("libIPSec_MB"):
        return CIPHER
    if library.startswith(("_binding", "libcrypto", "_rust")):
        return CIPHER if AES.search(symbol) else "libsrtp and libcrypto around AES"
    if PLANE.search(where):
        return "data plane"
    if library.startswith(("libc.", "libc-", "libm.", "ld-linux", "[vdso]")):
        return "libc"
    return "Python: signalling, rooms, estimation"


def samples(text: Iterable[str]) -> Iterator[list[tuple[str, str]]]:
    """The stacks of `perf script -F ip,sym,dso`: lines "address symbol (object)", a blank line after each sample."""
    frames: list[tuple[str, str]] = []
    for line in text:
        if not (words := line.split()):
            if frames:
                yield frames
            frames = []
        elif words[-1].startswith("("):
            frames.append((" ".join(words[1:-1]), words[-1].strip("()")))
    if frames:
        yield frames


async def measured(scenario: str, subscribers: int, seconds: float, data: Path) -> int:
    """Load a server of our own and record the machine's samples in the file. The server's process id."""
    server = OwnServer(name="profiled")
    target = await server.start()
    try:
        length = SETTLE_S + seconds + 4
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tertulia", "bench", "--url", target.url, "--api-key", target.api_key, "--api-secret",
            target.api_secret, "--scenario", scenario, "--subscribers", str(subscribers), "--join-rate",
            str(JOINS_PER_SECOND), "--duration", str(length), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await asyncio.sleep(subscribers / JOINS_PER_SECOND + SETTLE_S)
            recorder = await asyncio.create_subprocess_exec(
                "perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND), "-g", "-o", str(data), "-a",
                "--", "sleep", str(seconds), stderr=subprocess.PIPE,
            )  # fmt: skip
            _, said = await recorder.communicate()
            if recorder.returncode:
                raise SystemExit(f"perf: {said.decode(errors='replace').strip()}")
            await load.wait()
            return target.pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                load.terminate()
            await load.wait()
    finally:
        await server.stop()


def table(parts: Counter[str], symbols: Counter[tuple[str, str]]) -> str:
    total = parts.total()
    lines = ["| part | share | most of it |", "| --- | ---: | --- |"]
    for part, count in parts.most_common():
        most = [f"`{name}` {n / total:.1%}" for (where, name), n in symbols.most_common() if where == part][:4]
        lines.append(f"| {part} | {count / total:.1%} | {', '.join(most)} |")
    share = (parts[UDP] + parts[CIPHER]) / total
    verdict = "holds" if share >= BUDGET else "**falls short**"
    lines += ["", f"UDP stack and AES together: {share:.0%} of {total} samples (wanted: {BUDGET:.0%}, {verdict})"]
    return "\n".join(lines)


def profile(scenario: str, subscribers: int, seconds: float) -> str:
    """The table; SystemExit when the machine has no perf or does not let it look."""
    if shutil.which("perf") is None:
        raise SystemExit("perf is not installed (Debian: linux-perf)")
    with tempfile.TemporaryDirectory(prefix="tertulia-profile-") as folder:
        data = Path(folder) / "perf.data"
        pid = asyncio.run(measured(scenario, subscribers, seconds, data))
        told = subprocess.run(
            ["perf", "script", "-i", data, "--pid", str(pid), "-F", "ip,sym,dso"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    parts: Counter[str] = Counter()
    symbols: Counter[tuple[str, str]] = Counter()
    for frames in samples(told.stdout.splitlines()):
        part = part_of(frames)
        parts[part] += 1
        symbols[part, frames[0][0].removeprefix("__pyx_f_8tertulia_3sfu_5plane_")] += 1
    if not parts:
        raise SystemExit("perf took no samples")
    return table(parts, symbols)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--scenario", default="audio", choices=["audio", "livestream", "meeting"])
    options.add_argument("--subscribers", type=int, default=375)
    options.add_argument("--seconds", type=float, default=10.0)
    chosen = options.parse_args()
    print(profile(chosen.scenario, chosen.subscribers, chosen.seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
