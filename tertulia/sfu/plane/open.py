"""How a node or a simulation gets its data plane."""

import os
import socket
from collections.abc import Sequence
from random import Random, SystemRandom
from typing import Literal, cast

from tertulia.sfu.plane.api import LivePlane, SimulatedPlane
from tertulia.sfu.plane.simulated import Simulated
from tertulia.sfu.plane.srtp import NoPointers
from tertulia.sfu.plane.threaded import Threaded

Life = Literal["auto", "compiled", "interpreted"]


class PlaneUnavailable(Exception):
    """The compiled life was asked for and cannot be had; the text says why."""


def open_plane(
    ports: Sequence[Sequence[socket.socket]], *, life: Life = "auto", rng: Random | None = None
) -> LivePlane:
    """The live plane over bound UDP sockets: one row of sockets per Port, one socket per advertised address.

    `Address.socket` counts through all rows. `TERTULIA_PLANE` in the environment overrides `life`. "auto" takes the
    compiled life where it can be had; else `reason` of the plane says why not. Raises PlaneUnavailable for "compiled".
    """
    wanted = chosen_life(life)
    rng = rng or SystemRandom()
    reason = ""
    if wanted != "interpreted":
        try:
            return native_plane(ports, rng)
        except PlaneUnavailable as error:
            if wanted == "compiled":
                raise
            reason = str(error)
    return Threaded(ports, rng, reason)


def native_plane(ports: Sequence[Sequence[socket.socket]], rng: Random) -> LivePlane:
    """The compiled life, or PlaneUnavailable with the reason."""
    try:
        from tertulia.sfu.plane import compiled_life
    except ImportError as error:
        raise PlaneUnavailable(f"the compiled data plane is not installed ({error})") from error
    try:
        compiled_life.self_test()
    except (compiled_life.SelfTestFailed, NoPointers) as error:
        raise PlaneUnavailable(f"the compiled data plane cannot be used: {error}") from error
    return compiled_life.Compiled(ports, rng)


def simulated_plane(rng: Random) -> SimulatedPlane:
    """An interpreted plane without sockets: datagrams in memory, time by argument."""
    return Simulated(rng)


def chosen_life(life: Life) -> Life:
    """The life to use: `TERTULIA_PLANE` wins over the argument; an unknown word is refused."""
    asked = os.environ.get("TERTULIA_PLANE", life) or life
    if asked not in ("auto", "compiled", "interpreted"):
        raise PlaneUnavailable(f"TERTULIA_PLANE={asked!r}: use auto, compiled or interpreted")
    return cast(Life, asked)
