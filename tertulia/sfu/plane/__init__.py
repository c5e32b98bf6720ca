"""The data plane: packets from publishers on. `open_plane` for a node, `simulated_plane` for virtual time."""

from tertulia.sfu.plane.open import PlaneUnavailable, open_plane, simulated_plane

__all__ = ["PlaneUnavailable", "open_plane", "simulated_plane"]
