"""Our side of ICE for one transport: a lite agent (RFC 8445 2.5), always controlled, which answers checks.

Decides which ways to the peer are proven, which one is nominated, and when the peer is gone. It sends nothing by itself
and holds no socket: checks come in by `handle`, answers and findings go out by `poll`.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from tertulia.protocol import stun
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import Address
from tertulia.sfu.transport.limits import Bucket

DISCONNECTED_NS = 10 * SECOND
"""No authentic check for so long: the peer is lost (livekit-server: ICE disconnected timeout)."""
FAILED_NS = 5 * SECOND
"""Lost for so long on top: gone for good (RFC 7675 5.1 seen from the side that only answers)."""
MAX_PATHS = 16
"""Proven ways per peer; the data plane keeps as many."""
STALE_NS = 30 * SECOND
"""A path without a check for so long may be forgotten for a new one."""
MAX_GENERATIONS = 3
"""Credentials that are honoured at a time: a restart may be under way when the next begins."""
MAX_TRANSACTIONS = 64
"""Recent checks remembered, so that a captured one is worth nothing from another address."""
CHECK_INTERVAL_NS = 5 * MILLISECOND
CHECK_BURST = 200
"""Authentic checks answered: 200 at once, then 200 a second."""
FORGERY_INTERVAL_NS = 100 * MILLISECOND
FORGERY_BURST = 20
"""Checks with a wrong password from unproven addresses that are worth an HMAC: 20 at once, then 10 a second."""


@dataclass(frozen=True, slots=True)
class TcpPath:
    """One ICE-TCP connection (RFC 6544), numbered by the listener."""

    connection: int
    host: str
    port: int


Path = Address | TcpPath


@dataclass(frozen=True, slots=True)
class Check:
    """A well-formed binding request that names one of our ufrags."""

    path: Path
    request: stun.Binding
    was_answered: bool = False
    """The data plane has answered this transaction on the path selected then."""


@dataclass(frozen=True, slots=True)
class Reply:
    path: Path
    data: bytes


@dataclass(frozen=True, slots=True)
class PathProven:
    """Authentic checks came this way: packets from it may be heard."""

    path: Path


@dataclass(frozen=True, slots=True)
class PathDropped:
    """A path gave its place to another one."""

    path: Path


@dataclass(frozen=True, slots=True)
class PathSelected:
    """Send this way from now on."""

    path: Path


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """No check for `DISCONNECTED_NS`."""


@dataclass(frozen=True, slots=True)
class PeerHeard:
    """Checks came back."""


@dataclass(frozen=True, slots=True)
class PeerGone:
    """Silence for `DISCONNECTED_NS` + `FAILED_NS`."""


IceOutput = Reply | PathProven | PathDropped | PathSelected | PeerSilent | PeerHeard | PeerGone


class Presence(Enum):
    """NEW: never heard. HEARD and SILENT alternate. GONE is final."""

    NEW = auto()
    HEARD = auto()
    SILENT = auto()
    GONE = auto()


@dataclass(slots=True)
class Generation:
    """One pair of local credentials."""

    number: int
    ufrag: str
    pwd: str
    key: stun.IntegrityKey


class IceAgent:
    """The lite agent of one transport. `credentials` mints a (ufrag, pwd) pair that is unique on the node."""

    def __init__(self, credentials: Callable[[], tuple[str, str]], count: Callable[[str], None]) -> None:
        self._credentials = credentials
        self._count = count
        self._generations: list[Generation] = []
        self._minted = 0
        self._remote_ufrag: str | None = None
        self._restarting = False
        self._paths: OrderedDict[Path, Nanos] = OrderedDict()
        self._transactions: dict[bytes, Path] = {}
        self._transaction_order: deque[bytes] = deque()
        self._checks = Bucket(CHECK_BURST, CHECK_INTERVAL_NS)
        self._forgeries = Bucket(FORGERY_BURST, FORGERY_INTERVAL_NS)
        self._outputs: deque[IceOutput] = deque()
        self.ufrags: tuple[str, ...] = ()
        """Every local user fragment that still counts."""
        self._last_check = Nanos(0)
        self.presence = Presence.NEW
        self.selected: Path | None = None
        self._mint()

    @property
    def ufrag(self) -> str:
        """The newest local user fragment."""
        return self._generations[-1].ufrag

    @property
    def pwd(self) -> str:
        return self._generations[-1].pwd

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every proven path, the one unheard for longest first."""
        return tuple(self._paths)

    @property
    def entrusted(self) -> tuple[str, str]:
        """(ufrag, pwd) whose checks on the selected path the data plane may answer by itself, for nothing is to be
        decided about them; empty while every check matters."""
        if self.presence is not Presence.HEARD or not isinstance(self.selected, Address):
            return "", ""
        return self._generations[0].ufrag, self._generations[0].pwd

    def is_proven(self, path: Path) -> bool:
        return path in self._paths

    def set_remote(self, ufrag: str) -> None:
        """Take the peer's user fragment. A new one is an ICE restart and needs new credentials on our side as well
        (RFC 8445 9), unless it answers a restart of ours."""
        if self._remote_ufrag is not None and ufrag != self._remote_ufrag and not self._restarting:
            self._mint()
        if ufrag != self._remote_ufrag:
            self._restarting = False
        self._remote_ufrag = ufrag

    def restart(self) -> None:
        """New credentials for an offer of ours. Paths and the selected one stay until the peer nominates again."""
        self._mint()
        self._restarting = self._remote_ufrag is not None

    def forget(self, path: Path) -> None:
        """A path that ended by itself (TCP closed). If it was the selected one, the freshest other takes its place."""
        self._paths.pop(path, None)
        if path == self.selected:
            self.selected = None
            if self._paths:
                self._select(next(reversed(self._paths)))

    # the four verbs -----------------------------------------------------------------------------

    def handle(self, now: Nanos, check: Check) -> None:
        """A check: authentic, it proves its path and counts as a sign of life; nominating, it selects it."""
        request, path = check.request, check.path
        generation = self._generation(request.local_ufrag)
        if self.presence is Presence.GONE or generation is None:
            self._count("stun_unknown_ufrag")
            return
        if not self._admit(now, check, generation):
            return
        if request.controlled:
            self._error(check, stun.ROLE_CONFLICT, generation)
            return
        if request.unknown:
            self._error(check, stun.UNKNOWN_ATTRIBUTE, generation)
            return
        self._count("stun_checks")
        self._heard(now)
        if not self._prove(now, path, request.use_candidate):
            self._count("ice_paths_refused")
        elif request.use_candidate:
            self._nominate(path, generation)
        elif self.selected is None:
            self._select(path)  # for the time being: the peer's first DTLS may come before its nomination
        # last: on a short way the peer's DTLS follows at once, and its address must be known by then
        self._outputs.append(Reply(path, stun.build_success(request.transaction, path.host, path.port, generation.key)))

    def heard(self, at: Nanos) -> None:
        """The data plane answered a check on the selected path, the last one at this time (0: none yet)."""
        if self.presence is Presence.HEARD and self.selected is not None and at > self._last_check:
            self._last_check = at
            self._paths[self.selected] = at
            self._paths.move_to_end(self.selected)

    def wake(self, now: Nanos) -> None:
        due = self.next_wake()
        if due is None or now < due:
            return
        if self.presence is Presence.HEARD:
            self.presence = Presence.SILENT
            self._outputs.append(PeerSilent())
        elif self.presence is Presence.SILENT:
            self.presence = Presence.GONE
            self._outputs.append(PeerGone())

    def next_wake(self) -> Nanos | None:
        if self.presence is Presence.HEARD:
            return Nanos(self._last_check + DISCONNECTED_NS)
        if self.presence is Presence.SILENT:
            return Nanos(self._last_check + DISCONNECTED_NS + FAILED_NS)
        return None

    def poll(self) -> IceOutput | None:
        return self._outputs.popleft() if self._outputs else None

    # parts --------------------------------------------------------------------------------------

    def _mint(self) -> None:
        ufrag, pwd = self._credentials()
        self._minted += 1
        self._generations.append(Generation(self._minted, ufrag, pwd, stun.IntegrityKey(pwd)))
        self._keep(self._generations[-MAX_GENERATIONS:])

    def _keep(self, generations: list[Generation]) -> None:
        self._generations = generations
        self.ufrags = tuple(generation.ufrag for generation in generations)

    def _generation(self, ufrag: str) -> Generation | None:
        for generation in self._generations:
            if generation.ufrag == ufrag:
                return generation
        return None

    def _admit(self, now: Nanos, check: Check, generation: Generation) -> bool:
        """Authentic, not captured elsewhere, and not too many."""
        known = check.path in self._paths
        if not known and self._forgeries.empty(now):
            self._count("stun_rate_limited")
            return False
        if not stun.is_authentic(check.request, generation.key):
            if not known:
                self._forgeries.take(now)
            self._count("stun_bad_integrity")
            return False
        transaction = check.request.transaction
        answered_for = self.selected if check.was_answered else check.path
        if self._transactions.get(transaction, answered_for) != check.path:
            self._count("stun_replayed")
            return False
        if not self._checks.take(now):
            self._count("stun_rate_limited")
            return False
        if transaction not in self._transactions:
            self._transactions[transaction] = check.path
            self._transaction_order.append(transaction)
            if len(self._transaction_order) > MAX_TRANSACTIONS:
                del self._transactions[self._transaction_order.popleft()]
        return True

    def _error(self, check: Check, code: int, generation: Generation) -> None:
        self._count(f"stun_error_{code}")
        data = stun.build_error(check.request.transaction, code, generation.key, check.request.unknown)
        self._outputs.append(Reply(check.path, data))

    def _heard(self, now: Nanos) -> None:
        self._last_check = now
        if self.presence is Presence.SILENT:
            self._outputs.append(PeerHeard())
        self.presence = Presence.HEARD

    def _prove(self, now: Nanos, path: Path, nominating: bool) -> bool:
        """Remember the path. When all places are taken, a nominated path pushes out the one unheard for longest;
        another path only one that is stale."""
        if path in self._paths:
            self._paths[path] = now
            self._paths.move_to_end(path)
            return True
        if len(self._paths) >= MAX_PATHS:
            oldest, heard = next(item for item in self._paths.items() if item[0] != self.selected)
            if not nominating and now - heard < STALE_NS:
                return False
            del self._paths[oldest]
            self._outputs.append(PathDropped(oldest))
        self._paths[path] = now
        self._outputs.append(PathProven(path))
        return True

    def _nominate(self, path: Path, generation: Generation) -> None:
        """Follow the newest nomination (aggressive nomination moves on to better pairs). A nomination under newer
        credentials ends the older ones."""
        self._select(path)
        if self._generations[0].number < generation.number:
            self._keep([kept for kept in self._generations if kept.number >= generation.number])

    def _select(self, path: Path) -> None:
        if path != self.selected:
            self.selected = path
            self._outputs.append(PathSelected(path))
