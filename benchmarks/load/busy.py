"""Tertulia with its interpreter kept busy half of the time, in pieces of 3 ms: what signalling of a full node would do.

Takes the arguments of `tertulia`. A thread computes and rests in turn; the data plane must not notice.
"""

import threading
import time

PIECE_S = 0.003


def compute() -> None:
    while True:
        end = time.monotonic() + PIECE_S
        while time.monotonic() < end:
            sum(range(100))
        time.sleep(PIECE_S)


def main() -> None:
    threading.Thread(target=compute, name="busy", daemon=True).start()
    from tertulia.node.main import cli

    cli(prog_name="tertulia")


if __name__ == "__main__":
    main()
