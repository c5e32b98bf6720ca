"""The side that answers: the single connection of /rtc/v1 and the publisher connection of /rtc.

    offer = answerer.read(sdp)                      # PeerError: say it to the client; nothing has changed
    local = transports.connect(transport, offer.remote)
    ...match offer.published with add_track requests, answerer.prefer(mid, Preference(...))...
    answer = answerer.answer(offer, local)
    requirement = answerer.take_requirement()       # and after every send/stop

Offers must be answered in the order they were read, one at a time.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import NamedTuple

from livekit.protocol import models, rtc

from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp import MAX_SECTIONS
from tertulia.sfu.negotiation import codecs, writing
from tertulia.sfu.negotiation.quirks import quirks_of
from tertulia.sfu.negotiation.reading import ConnectionRead, Reader
from tertulia.sfu.negotiation.sections import SectionRead
from tertulia.sfu.negotiation.slots import Slots, mint_session_id
from tertulia.sfu.negotiation.words import Answer, Kind, OfferRead, Preference, PublishedSection, Wanted
from tertulia.sfu.transport.api import LocalParameters

MAX_FRUITLESS = 4
"""Requirements in a row that brought no section; then we stop asking until something is wanted anew."""

SETUP_ANSWERS = {"actpass": "passive", "active": "passive", "passive": "active"}
"""RFC 8842 5.3: we wait for the ClientHello unless the peer insists on waiting itself."""


class _Section(NamedTuple):
    """What we remember of a section between offers."""

    mid: str
    is_zero: bool
    publishes: bool
    cid: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `read` worked out for `answer`; `round` tells whether it is still fresh."""

    round: int
    connection: ConnectionRead
    published: tuple[PublishedSection, ...]
    ended: tuple[str, ...]
    setup: str


class Answerer:
    """Sections of one peer connection whose client always offers."""

    def __init__(
        self, *, enabled_codecs: Sequence[str], client: models.ClientInfo, rng: Random, sends: bool = True
    ) -> None:
        """`enabled_codecs`: mime types in order of preference. `sends`: False on the publisher connection of /rtc,
        whose recvonly sections stay inactive (wire contract G25)."""
        enabled = codecs.enabled_set(enabled_codecs)
        self._reader = Reader(enabled)
        self._quirks = quirks_of(client)
        self._sends = sends
        self._drafts = writing.Drafts()
        self._sections: list[_Section] = []
        self._slots = Slots(rng, takes_red=self._quirks.takes_red)
        self._preferences: dict[str, tuple[Preference, int]] = {}
        self._receivers: dict[str, SectionRead] = {}
        self._session_id = mint_session_id(rng)
        self._round = 0
        self._setup = ""
        self._asked = False
        self._fruitless = 0

    # the room's wishes --------------------------------------------------------------------------

    def send(self, wanted: Wanted) -> None:
        """This track shall have a section from the next answer that finds one. Saying it again with other values
        gives it a new SSRC."""
        if self._slots.want(wanted):
            self._fruitless = 0

    def stop(self, track_sid: str) -> None:
        """This track shall lose its section. A freed section is given to another track one answer later, so that
        every client sees the old track end."""
        if self._slots.drop(track_sid):
            self._fruitless = 0

    def prefer(self, mid: str, preference: Preference) -> None:
        """How the client shall send on this section; kept until the section ends."""
        self._preferences[mid] = (preference, self._round)

    # an offer -----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Nothing more will be negotiated: what is remembered of the last round goes now, not with the next garbage."""
        self._reader.forget()
        self._drafts.forget()

    def read(self, sdp: str) -> OfferRead:
        """Understand and check an offer without changing anything. PeerError: what is wrong with it."""
        connection = self._reader.read(sdp)
        self._check_continuity(connection.sections)
        setup = SETUP_ANSWERS[connection.remote.setup]
        if self._setup and connection.remote.setup != "actpass" and setup != self._setup:
            raise PeerError("the DTLS role cannot change on a running connection")
        published, ended = self._published(connection.sections)
        plan = _Plan(self._round, connection, published, ended, self._setup or setup)
        return OfferRead(connection.remote, published, ended, plan)

    def answer(self, offer: OfferRead, local: LocalParameters) -> Answer:
        """Settle everything the offer allows, and say it."""
        plan = offer.plan
        assert isinstance(plan, _Plan)
        assert plan.round == self._round, "offers are answered one at a time, in the order they were read"
        self._round += 1
        self._setup = plan.setup
        connection = plan.connection
        published = {one.mid: one for one in self._tune(plan)}
        self._remember(connection.sections, published)
        stopped, unsupported = self._place(connection.sections)
        text = writing.build_description(
            self._drafts.write(self._draft(section, published.get(section.mid)) for section in connection.sections),
            local,
            setup=self._setup,
            session_id=self._session_id,
            version=self._round,
            mixed=connection.mixed_extensions,
        )
        return Answer(
            sdp=text,
            mid_to_track_id=self._slots.track_ids(),
            extensions=connection.extensions,
            published=tuple(published.values()),
            ended=plan.ended,
            down=self._slots.take_down(),
            stopped=stopped,
            unsupported=unsupported,
            has_data=any(section.is_data and section.usable for section in connection.sections),
        )

    def _check_continuity(self, sections: Sequence[SectionRead]) -> None:
        """RFC 3264 8: sections never go away or move; a stopped one may be reused under another mid."""
        if len(sections) < len(self._sections):
            raise PeerError("an offer has fewer sections than the one before")
        for index, (known, section) in enumerate(zip(self._sections, sections, strict=False)):
            if known.mid != section.mid and not known.is_zero and section.mid:
                raise PeerError(f"section {index} changed its mid")

    def _published(self, sections: Sequence[SectionRead]) -> tuple[tuple[PublishedSection, ...], tuple[str, ...]]:
        known = {section.mid: section for section in self._sections if section.publishes}
        published: list[PublishedSection] = []
        for section in sections:
            if section.sends and section.kind is not None:
                before = known.get(section.mid)
                # Firefox and replaced tracks may come without msid: it is still the same track
                cid = section.cid or (before.cid if before is not None else "")
                published.append(
                    PublishedSection(
                        mid=section.mid,
                        kind=section.kind,
                        stream_id=section.stream_id,
                        cid=cid,
                        rids=section.rids,
                        payloads=section.payloads,
                        ssrcs=section.ssrcs,
                        rtx_ssrcs=section.rtx_ssrcs,
                        fresh=before is None or before.cid != cid,
                    )
                )
        going_on = {one.mid for one in published if not one.fresh}
        return tuple(published), tuple(mid for mid in known if mid not in going_on)

    def _tune(self, plan: _Plan) -> list[PublishedSection]:
        """Published sections as we want them sent; a preference for the track before on this mid is forgotten."""
        tuned = []
        for one in plan.published:
            preference, said_in = self._preferences.get(one.mid, (None, 0))
            if one.fresh and said_in != plan.round:
                preference = None
            payloads = codecs.preferred(one.payloads, preference, only=self._quirks.one_codec)
            tuned.append(replace(one, payloads=payloads))
        return tuned

    def _remember(self, sections: Sequence[SectionRead], published: Mapping[str, PublishedSection]) -> None:
        self._sections = [
            _Section(
                mid=section.mid,
                is_zero=section.is_zero or not section.usable,
                publishes=section.mid in published,
                cid=published[section.mid].cid if section.mid in published else "",
            )
            for section in sections
        ]
        self._preferences = {mid: said for mid, said in self._preferences.items() if mid in published}
        self._receivers = {section.mid: section for section in sections if section.receives and self._sends}

    # what we send -------------------------------------------------------------------------------

    def _place(self, sections: Sequence[SectionRead]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Free, keep and fill sections; track sids that lost theirs, and those the client cannot decode."""
        slots, receivers = self._slots, self._receivers
        freed = slots.release(keep=receivers)
        slots.renew()
        unsupported = [
            placed.wanted.track_sid
            for mid, placed in list(slots.placed.items())
            if not slots.settle(mid, receivers[mid].payloads)
        ]
        slots.forget(unsupported)
        progress = bool(freed or unsupported)
        fits = codecs.Fitting()
        for wanted in slots.waiting():
            section = self._free_section(wanted, fits, closed=freed)
            if section is not None:
                slots.place(section.mid, wanted)
                slots.settle(section.mid, section.payloads)
                progress = True
            elif self._is_hopeless(wanted, fits):
                unsupported.append(wanted.track_sid)
        slots.forget(unsupported)
        self._fruitless = self._fruitless + 1 if self._asked and slots.waiting() and not progress else 0
        self._asked = False
        return tuple(freed.values()), tuple(unsupported)

    def _free_section(self, wanted: Wanted, fits: codecs.Fitting, closed: Container[str]) -> SectionRead | None:
        """The first empty section that can carry the track; one that also publishes only when there is no other."""
        fitting = [
            section
            for section in self._receivers.values()
            if section.kind == wanted.kind
            and section.mid not in self._slots.placed
            and section.mid not in closed
            and fits(section.payloads, wanted)
        ]
        return min(fitting, key=lambda section: section.sends, default=None)

    def _is_hopeless(self, wanted: Wanted, fits: codecs.Fitting) -> bool:
        """The client receives this kind of track, and nowhere in this codec."""
        same_kind = [section for section in self._receivers.values() if section.kind == wanted.kind]
        return bool(same_kind) and not any(fits(one.payloads, wanted) for one in same_kind)

    def take_requirement(self) -> rtc.MediaSectionsRequirement | None:
        """What to ask the client for, when `send` or `stop` needs a new offer and none was asked for since the last
        answer. Coalesces: at most one is out."""
        if not self._sends or not self._round or self._asked:
            return None
        if not self._slots.is_pending or self._fruitless >= MAX_FRUITLESS:
            return None
        self._asked = True
        missing = self._missing()
        return rtc.MediaSectionsRequirement(num_audios=missing["audio"], num_videos=missing["video"])

    def forget_requirement(self) -> None:
        """The last requirement may not have arrived (the client resumed): the next `take_requirement` may repeat it."""
        self._asked = False
        self._fruitless = 0

    def _missing(self) -> dict[Kind, int]:
        """Sections to ask for beyond those that are empty, or will be once their track has ended."""
        placed = self._slots.placed
        spare = [one for mid, one in self._receivers.items() if mid not in placed or self._slots.is_unwanted(mid)]
        missing: dict[Kind, int] = {"audio": 0, "video": 0}
        fits = codecs.Fitting()
        for wanted in self._slots.waiting():
            for section in spare:
                if section.kind == wanted.kind and fits(section.payloads, wanted):
                    spare.remove(section)
                    break
            else:
                if len(self._sections) + sum(missing.values()) < MAX_SECTIONS:
                    missing[wanted.kind] += 1
        return missing

    # the answer's text --------------------------------------------------------------------------

    def _draft(
        self, section: SectionRead, published: PublishedSection | None
    ) -> tuple[object, Callable[[], writing.AnySection]]:
        placed = self._slots.placed.get(section.mid)
        depends = (
            section,
            published.payloads if published is not None else None,
            placed.numbers() if placed is not None else None,
        )
        return depends, partial(self._section, section, published)

    def _section(self, section: SectionRead, published: PublishedSection | None) -> writing.AnySection:
        kind, protocol, formats = section.media_line
        if not section.usable:
            return writing.RefusedSection(section.mid, kind, protocol, formats)
        if section.kind is None:
            return writing.DataSection(section.mid, protocol)
        placed = self._slots.placed.get(section.mid)
        payloads = section.payloads
        if published is not None:
            payloads = published.payloads
        elif placed is not None and placed.payload is not None:
            payloads = codecs.carried_first(payloads, placed.payload, stereo=placed.wanted.stereo)
        return writing.MediaSection(
            mid=section.mid,
            kind=section.kind,
            direction=DIRECTION[published is not None, placed is not None],
            payloads=payloads,
            extmaps=section.extmaps,
            rids=published.rids if published is not None else (),
            sender=self._slots.sender(
                section.mid, rtx=placed is not None and placed.payload is not None and placed.payload.rtx_pt != 0
            ),
            reduced_size=section.reduced_size,
            protocol=protocol,
        )


DIRECTION = {
    (False, False): "inactive",
    (True, False): "recvonly",
    (False, True): "sendonly",
    (True, True): "sendrecv",
}
"""By (the client publishes here, we send here)."""
