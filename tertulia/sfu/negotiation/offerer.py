"""The side that offers: the subscriber connection of /rtc (two-connection topology).

if offerer.is_due: offer = offerer.offer(local)          # one in flight; `is_due` is False until it is settled
accepted = offerer.accept(answer_sdp)                    # PeerError: the offer stays in flight
transports.connect(transport, accepted.remote)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from livekit.protocol import models

from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp import MAX_SECTIONS
from tertulia.protocol.sdp_attributes import ExtMap
from tertulia.sfu.negotiation import codecs, extensions, writing
from tertulia.sfu.negotiation.quirks import quirks_of
from tertulia.sfu.negotiation.reading import Reader
from tertulia.sfu.negotiation.sections import SectionRead
from tertulia.sfu.negotiation.slots import Slots, mint_session_id
from tertulia.sfu.negotiation.words import Accepted, Kind, Offer, Payload, Wanted
from tertulia.sfu.transport.api import LocalParameters

DATA_MID = "0"

_OPUS_FMTP = "minptime=10;useinbandfec=1"
_H264 = "level-asymmetry-allowed=1;packetization-mode={};profile-level-id={}"
_TABLE: dict[Kind, tuple[tuple[int, str, int, str], ...]] = {
    "audio": (
        (111, "audio/opus", 48000, _OPUS_FMTP),
        (63, "audio/red", 48000, "111/111"),
        (0, "audio/PCMU", 8000, ""),
        (8, "audio/PCMA", 8000, ""),
    ),
    "video": (
        (96, "video/VP8", 90000, ""),
        (98, "video/VP9", 90000, "profile-id=0"),
        (100, "video/VP9", 90000, "profile-id=1"),
        (125, "video/H264", 90000, _H264.format(1, "42e01f")),
        (108, "video/H264", 90000, _H264.format(0, "42e01f")),
        (104, "video/H264", 90000, _H264.format(1, "42001f")),
        (39, "video/H264", 90000, _H264.format(1, "4d001f")),
        (35, "video/AV1", 90000, ""),
        (116, "video/H265", 90000, ""),
    ),
}
"""Our payload types: clients of this topology know these numbers well. The repair stream has the next number."""
_EXTMAPS = {
    kind: tuple(ExtMap(number, "sendrecv", extensions.URIS[extension]) for extension, number in offered.items())
    for kind, offered in extensions.OFFERED.items()
}


@dataclass(slots=True)
class _Section:
    mid: str
    kind: Kind
    is_dead: bool = False
    """The client refused it: port zero from now on."""
    closed: bool = False
    """Its track ended in the offer in flight; not to be filled before that offer is answered."""
    used: bool = False
    """Had a track once."""


class Offerer:
    """Sections of one peer connection on which we offer and only send."""

    def __init__(self, *, enabled_codecs: Sequence[str], client: models.ClientInfo, rng: Random) -> None:
        """`enabled_codecs`: mime types; the order inside a section is ours."""
        enabled = codecs.enabled_set(enabled_codecs)
        self._reader = Reader(enabled)
        self._quirks = quirks_of(client)
        self._slots = Slots(rng, takes_red=self._quirks.takes_red)
        self._payloads = {kind: _own_payloads(kind, enabled) for kind in _TABLE}
        self._drafts = writing.Drafts()
        self._sections: list[_Section] = []
        self._session_id = mint_session_id(rng)
        self._version = 0
        self._waiting = False
        self._repeat = True
        self._stopped: list[str] = []

    def send(self, wanted: Wanted) -> None:
        """This track shall have a section from the next offer on. Saying it again with other values gives it a new
        SSRC."""
        self._slots.want(wanted)

    def stop(self, track_sid: str) -> None:
        """This track shall lose its section with the next offer."""
        self._slots.drop(track_sid)

    @property
    def is_due(self) -> bool:
        """An offer would say something new and none is in flight; true at first, that offer opens the connection."""
        return not self._waiting and (self._repeat or self._slots.is_pending)

    @property
    def is_waiting(self) -> bool:
        """An offer is in flight."""
        return self._waiting

    def offer(self, local: LocalParameters) -> Offer:
        """The next offer. Also for an ICE restart (new `local`), when nothing else changed."""
        assert not self._waiting, "one offer at a time"
        self._fill()
        self._waiting, self._repeat = True, False
        self._version += 1
        data = (None, partial(writing.DataSection, DATA_MID))
        text = writing.build_description(
            self._drafts.write([data, *map(self._draft, self._sections)]),
            local,
            setup="actpass",
            session_id=self._session_id,
            version=self._version,
            mixed=True,
        )
        return Offer(text, self._slots.track_ids())

    def accept(self, sdp: str) -> Accepted:
        """The client's answer to the offer in flight. PeerError: what is wrong with it; nothing has changed."""
        if not self._waiting:
            raise PeerError("an answer without an offer")
        connection = self._reader.read(sdp)
        answered = self._matched(connection.sections)
        if connection.remote.setup == "actpass":
            raise PeerError("a=setup of an answer is active or passive")
        self._waiting = False
        unsupported = self._settle(answered)
        stopped, self._stopped = tuple(self._stopped), []
        return Accepted(connection.remote, connection.extensions, self._slots.take_down(), stopped, unsupported)

    def forget(self) -> None:
        """Nothing more will be negotiated: what is remembered of the last round goes now, not with the next garbage."""
        self._reader.forget()
        self._drafts.forget()

    def abandon(self) -> None:
        """The offer in flight will not be answered (the client resumed): take it back; `is_due` becomes True.

        Its sections stay: the client may have applied it, and sections never go away (RFC 3264 8).
        """
        self._waiting, self._repeat = False, True

    # sections -----------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Sections for every wish: an idle one of the same kind, else a new one at the end."""
        live = {section.mid for section in self._sections if not section.is_dead}
        freed = self._slots.release(keep=live)
        self._slots.renew()
        self._stopped += freed.values()
        for section in self._sections:
            section.closed = section.closed or section.mid in freed
        for wanted in self._slots.waiting():
            found = self._idle(wanted.kind) or self._added(wanted.kind)
            if found is not None:
                found.used = True
                self._slots.place(found.mid, wanted)

    def _idle(self, kind: Kind) -> _Section | None:
        for section in self._sections:
            taken = section.mid in self._slots.placed or section.closed or section.is_dead
            if section.kind == kind and not taken and not (section.used and self._quirks.keeps_sections):
                return section
        return None

    def _added(self, kind: Kind) -> _Section | None:
        """None at the limit: the track waits for a section to become idle."""
        if len(self._sections) + 1 >= MAX_SECTIONS or not self._payloads[kind]:
            return None
        section = _Section(str(len(self._sections) + 1), kind)
        self._sections.append(section)
        return section

    def _draft(self, section: _Section) -> tuple[object, Callable[[], writing.AnySection]]:
        placed = self._slots.placed.get(section.mid)
        depends = section.is_dead, placed.numbers() if placed is not None else None
        return depends, partial(self._written, section)

    def _written(self, section: _Section) -> writing.AnySection:
        payloads = self._payloads[section.kind]
        if section.is_dead:
            formats = [str(payload.pt) for payload in payloads]
            return writing.RefusedSection(section.mid, section.kind, writing.MEDIA_PROTOCOL, formats)
        placed = self._slots.placed.get(section.mid)
        if placed is not None:
            carried = codecs.carrying(payloads, placed.wanted)
            payloads = codecs.carried_first(payloads, carried, stereo=placed.wanted.stereo)
        return writing.MediaSection(
            mid=section.mid,
            kind=section.kind,
            direction="inactive" if placed is None else "sendonly",
            payloads=payloads,
            extmaps=_EXTMAPS[section.kind],
            sender=self._slots.sender(section.mid, rtx=True),
        )

    # an answer ----------------------------------------------------------------------------------

    def _matched(self, sections: Sequence[SectionRead]) -> Mapping[str, SectionRead]:
        """Section for section, as we offered them (RFC 3264 6)."""
        expected = [DATA_MID, *(section.mid for section in self._sections)]
        if len(sections) != len(expected):
            raise PeerError(f"the answer has {len(sections)} sections, the offer {len(expected)}")
        for index, (mid, section) in enumerate(zip(expected, sections, strict=True)):
            if section.mid != mid and not (section.is_zero and not section.mid):
                raise PeerError(f"section {index} of the answer has another mid than the offer")
            if index and section.kind != self._sections[index - 1].kind:
                raise PeerError(f"section {index} of the answer is of another kind than the offer")
        return dict(zip(expected, sections, strict=True))

    def _settle(self, answered: Mapping[str, SectionRead]) -> tuple[str, ...]:
        """Payload types as the client wants to receive them; track sids it does not take."""
        slots = self._slots
        for section in self._sections:
            section.closed = False
            section.is_dead = section.is_dead or answered[section.mid].is_zero or not answered[section.mid].usable
        refused = [
            placed.wanted.track_sid
            for mid, placed in list(slots.placed.items())
            if not answered[mid].receives or not slots.settle(mid, answered[mid].payloads)
        ]
        unwanted = {placed.wanted.track_sid for mid, placed in slots.placed.items() if slots.is_unwanted(mid)}
        slots.forget(refused)
        self._stopped += [sid for sid in refused if sid in unwanted]
        self._repeat = self._repeat or bool(refused)
        return tuple(sid for sid in refused if sid not in unwanted)


def _own_payloads(kind: Kind, enabled: frozenset[str]) -> tuple[Payload, ...]:
    feedback = {"audio": codecs.AUDIO_FEEDBACK, "video": codecs.VIDEO_FEEDBACK}[kind]
    return tuple(
        Payload(
            pt=pt,
            mime_type=mime,
            clock_hz=clock_hz,
            channels=0 if kind == "video" else 2 if clock_hz == 48000 else 1,
            fmtp=fmtp,
            rtx_pt=pt + 1 if kind == "video" else 0,
            feedback=feedback if kind == "video" or mime == codecs.KNOWN[codecs.OPUS] else (),
        )
        for pt, mime, clock_hz, fmtp in _TABLE[kind]
        if mime.lower() in enabled
    )
