"""How a node or a simulation gets its data plane."""

import os
import socket
from collections.abc import Sequence
from random import Random
from typing import Literal, cast

from tertulia.sfu.plane.api import LivePlane, SimulatedPlane

Life = Literal["auto", "compiled", "interpreted"]


class PlaneUnavailable(Exception):
    """The compiled life was asked for and cannot be had; the text says why."""


def open_plane(
    ports: Sequence[Sequence[socket.socket]], *, life: Life = "auto", rng: Random | None = None
) -> tuple[LivePlane, str]:
    """The live plane over bound UDP sockets (one row per Port, one socket per advertised address), and why it is
    interpreted ("" when it is compiled or was asked to be).

    `TERTULIA_PLANE` in the environment overrides `life`. Raises PlaneUnavailable for "compiled" without it.
    """
    raise PlaneUnavailable("under way")


def simulated_plane(rng: Random) -> SimulatedPlane:
    """An interpreted plane without sockets: datagrams in memory, time by argument."""
    raise PlaneUnavailable("under way")


def chosen_life(life: Life) -> Life:
    """The life to use: `TERTULIA_PLANE` wins over the argument; an unknown word is refused."""
    asked = os.environ.get("TERTULIA_PLANE", life) or life
    if asked not in ("auto", "compiled", "interpreted"):
        raise PlaneUnavailable(f"TERTULIA_PLANE={asked!r}: use auto, compiled or interpreted")
    return cast(Life, asked)
