"""The package runs without Cython and without the compiled modules, and says so."""

import subprocess
import sys
import textwrap

PROGRAM = """
import socket, sys
sys.modules["cython"] = None
sys.modules["tertulia.sfu.plane.native"] = None
from random import Random
from tertulia.sfu.plane import PlaneUnavailable, open_plane, simulated_plane
simulated_plane(Random(1)).add_transport()
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
plane = open_plane([[sock]])
print(plane.life, "|", plane.reason)
try:
    open_plane([[sock]], life="compiled")
except PlaneUnavailable as error:
    print("refused:", error)
"""


def test_without_cython_and_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    life, refusal = done.stdout.splitlines()
    assert life.startswith("interpreted | the compiled data plane is not installed")
    assert refusal.startswith("refused: the compiled data plane is not installed")
