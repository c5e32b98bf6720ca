"""Our answers and offers under the eyes of a real browser: whatever `Answerer` and `Offerer` say, a peer connection of
Chromium must take, and its tracks, directions and encodings must follow. No server, no media."""

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from livekit.protocol import models
from playwright.async_api import Browser, Page

from tertulia.sfu.negotiation import Accepted, Answer, Answerer, Offerer, Preference, Wanted
from tertulia.sfu.transport.api import LocalParameters

pytestmark = pytest.mark.interop

CODECS = ("audio/opus", "audio/red", "video/VP8", "video/H264", "video/VP9", "video/AV1")
PAGE = """
() => {
  window.seen = [];
  window.pc = new RTCPeerConnection();
  pc.ontrack = (e) => seen.push({mid: e.transceiver.mid, stream: e.streams[0]?.id ?? ''});
  window.canvas = Object.assign(document.createElement('canvas'), {width: 1280, height: 720});
  canvas.getContext('2d').fillRect(0, 0, 10, 10);
  window.offer = async () => { await pc.setLocalDescription(await pc.createOffer()); return pc.localDescription.sdp; };
  window.taken = async (type, sdp) => { await pc.setRemoteDescription({type, sdp}); return pc.signalingState; };
  window.answer = async (sdp) => {
    await taken('offer', sdp);
    await pc.setLocalDescription(await pc.createAnswer());
    return pc.localDescription.sdp;
  };
  window.camera = (rids, only) => {
    const track = canvas.captureStream(5).getVideoTracks()[0];
    const sendEncodings = rids.map((rid, n) => ({rid, scaleResolutionDownBy: 2 ** (rids.length - 1 - n)}));
    const transceiver = pc.addTransceiver(track, {direction: 'sendonly', streams: [new MediaStream()], sendEncodings});
    if (only) {
      const codecs = RTCRtpSender.getCapabilities('video').codecs;
      transceiver.setCodecPreferences(codecs.filter((codec) => codec.mimeType === only));
    }
    window.lastSender = transceiver.sender;
    return track.id;
  };
  window.microphone = () => {
    const track = new AudioContext().createMediaStreamDestination().stream.getAudioTracks()[0];
    window.lastSender = pc.addTransceiver(track, {direction: 'sendonly'}).sender;
    return track.id;
  };
  window.sections = () => pc.getTransceivers().map((one) => [one.mid, one.currentDirection]);
  window.byMid = (mid) => pc.getTransceivers().find((one) => one.mid === mid);
}
"""


def local(generation: int = 0) -> LocalParameters:
    return LocalParameters(
        ufrag=f"frag{generation}",
        pwd=f"{generation}" * 24,
        fingerprint_algorithm="sha-256",
        fingerprint=":".join(["A5"] * 32),
        candidates=(
            "1 1 udp 2130706431 127.0.0.1 9 typ host",
            "2 1 tcp 1518280447 127.0.0.1 9 typ host tcptype passive",
        ),
    )


def audio(name: str, **more: Any) -> Wanted:
    return Wanted(f"TR_AM{name}", "PA_other", "audio", "audio/opus", **more)


def video(name: str, mime_type: str = "video/VP8", **more: Any) -> Wanted:
    return Wanted(f"TR_VC{name}", "PA_other", "video", mime_type, **more)


class Call:
    """A page with one peer connection, and our side of it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.answerer = Answerer(enabled_codecs=CODECS, client=models.ClientInfo(), rng=Random(7))
        self.offerer = Offerer(enabled_codecs=CODECS, client=models.ClientInfo(), rng=Random(7))
        self.generation = 0

    async def do(self, script: str, *arguments: Any) -> Any:
        async with asyncio.timeout(30):
            return await self.page.evaluate(script, list(arguments))

    async def placeholders(self, audios: int = 3, videos: int = 3, *, data: bool = True) -> None:
        await self.do(
            """([audios, videos, data]) => {
              for (let n = 0; n < audios; n++) pc.addTransceiver('audio', {direction: 'recvonly'});
              for (let n = 0; n < videos; n++) pc.addTransceiver('video', {direction: 'recvonly'});
              if (data) pc.createDataChannel('_reliable');
            }""",
            audios,
            videos,
            data,
        )

    async def round(self, preference: Preference | None = None) -> Answer:
        """One offer of the browser, our answer, taken by the browser."""
        offer = self.answerer.read(await self.do("() => offer()"))
        for one in offer.published:
            if one.fresh and preference is not None:
                self.answerer.prefer(one.mid, preference)
        answer = self.answerer.answer(offer, local(self.generation))
        assert await self.do("([sdp]) => taken('answer', sdp)", answer.sdp) == "stable"
        return answer

    async def our_round(self) -> Accepted:
        """One offer of ours, the browser's answer."""
        offer = self.offerer.offer(local(self.generation))
        return self.offerer.accept(await self.do("([sdp]) => answer(sdp)", offer.sdp))

    async def seen(self) -> list[dict[str, str]]:
        """`track` events since the last call."""
        return list(await self.do("() => seen.splice(0)"))

    async def directions(self) -> dict[str, str]:
        return dict(await self.do("() => sections()"))


@pytest.fixture
async def call(browser: Browser) -> AsyncIterator[Call]:
    page = await browser.new_page()
    await page.evaluate(PAGE)
    yield Call(page)
    await page.close()


async def test_a_whole_life_on_one_connection(call: Call) -> None:
    await call.placeholders()
    first = await call.round()
    assert first.has_data
    assert first.down == ()
    assert await call.directions() == {str(mid): "inactive" for mid in range(6)}
    await call.round()  # browsers negotiate again at once

    cid = await call.do("() => camera(['q', 'h', 'f'])")
    answer = await call.round(Preference("video/VP8"))
    (camera,) = answer.published
    assert (camera.cid, camera.rids, camera.payloads[0].mime_type) == (cid, ("q", "h", "f"), "video/VP8")
    encodings = await call.do("() => lastSender.getParameters().encodings.map((one) => [one.rid, one.active])")
    assert encodings == [["q", True], ["h", True], ["f", True]]
    assert "~" not in await call.do("() => offer().then(s => s.split('\\r\\n').find(l => l.startsWith('a=simulcast')))")
    await call.round()

    call.answerer.send(audio("one"))
    call.answerer.send(video("one"))
    asked = call.answerer.take_requirement()
    assert asked is not None
    assert (asked.num_audios, asked.num_videos) == (0, 0)
    answer = await call.round()
    assert dict(answer.mid_to_track_id) == {"0": "TR_AMone", "3": "TR_VCone"}
    assert [(one["mid"], one["stream"]) for one in await call.seen()] == [
        ("0", "PA_other|TR_AMone"),
        ("3", "PA_other|TR_VCone"),
    ]
    assert {mid for mid, direction in (await call.directions()).items() if direction == "recvonly"} == {"0", "3"}

    call.answerer.stop("TR_VCone")
    call.answerer.send(video("two", "video/H264"))
    answer = await call.round()
    assert answer.stopped == ("TR_VCone",)
    assert (await call.directions())["3"] == "inactive"
    assert answer.mid_to_track_id["4"] == "TR_VCtwo", "a freed section rests for one round"

    old_ssrc = answer.down[0].ssrc
    for name in ("three", "four"):
        call.answerer.send(video(name))
    answer = await call.round()
    reused = {one.mid: one for one in answer.down}
    assert reused["3"].track_sid == "TR_VCthree"
    assert reused["3"].fresh
    assert reused["3"].ssrc != old_ssrc
    assert (await call.directions())["3"] == "recvonly"
    tracks = {one["mid"]: one["stream"] for one in await call.seen()}
    assert tracks["3"] == "PA_other|TR_VCthree"


async def test_more_tracks_than_placeholders(call: Call) -> None:
    await call.placeholders(1, 1)
    await call.round()
    for name in ("a", "b", "c"):
        call.answerer.send(audio(name))
    call.answerer.send(video("d"))
    asked = call.answerer.take_requirement()
    assert asked is not None
    assert (asked.num_audios, asked.num_videos) == (2, 0)
    await call.placeholders(asked.num_audios, asked.num_videos, data=False)
    answer = await call.round()
    assert {one.track_sid for one in answer.down} == {"TR_AMa", "TR_AMb", "TR_AMc", "TR_VCd"}
    assert call.answerer.take_requirement() is None
    assert len(await call.seen()) == 4


@pytest.mark.parametrize("mime_type", ["video/VP9", "video/H264", "video/AV1"])
async def test_the_browser_sends_the_preferred_codec(call: Call, mime_type: str) -> None:
    await call.placeholders()
    await call.round()
    await call.do("() => camera([])")
    await call.round(Preference(mime_type))
    sent = await call.do("() => lastSender.getParameters().codecs.map((one) => one.mimeType)")
    assert sent[0] == mime_type


@pytest.mark.parametrize(("red", "first"), [(True, "audio/red"), (False, "audio/opus")])
async def test_red_goes_first_only_when_wanted(call: Call, red: bool, first: str) -> None:
    await call.placeholders()
    await call.round()
    cid = await call.do("() => microphone()")
    answer = await call.round(Preference("audio/opus", red=red, stereo=True, dtx=True))
    assert answer.published[0].cid == cid
    codecs = await call.do("() => lastSender.getParameters().codecs")
    assert codecs[0]["mimeType"] == first
    opus = next(one for one in codecs if one["mimeType"] == "audio/opus")
    assert "usedtx=1" in opus["sdpFmtpLine"]
    assert "stereo=1" in opus["sdpFmtpLine"]


async def test_a_camera_of_one_codec_without_repair(call: Call) -> None:
    await call.placeholders()
    await call.round()
    cid = await call.do("() => camera(['f', 'h', 'q'], 'video/VP8')")
    answer = await call.round(Preference("video/VP8"))
    (camera,) = answer.published
    assert (camera.cid, camera.rids, len(camera.payloads), camera.payloads[0].rtx_pt) == (cid, ("f", "h", "q"), 1, 0)


async def test_unpublish_and_publish_again(call: Call) -> None:
    await call.placeholders()
    await call.round()
    await call.do("() => camera(['q', 'h'])")
    (camera,) = (await call.round()).published
    await call.do("() => { pc.removeTrack(lastSender); }")
    answer = await call.round()
    assert answer.ended == (camera.mid,)
    assert (await call.directions())[camera.mid] == "inactive"
    second = await call.do("() => camera(['q', 'h'])")
    (again,) = (await call.round()).published
    assert again.cid == second
    assert again.fresh


async def test_a_stopped_section_leaves_the_bundle_and_is_used_again(call: Call) -> None:
    await call.placeholders()
    await call.round()
    call.answerer.send(video("one"))
    await call.round()
    await call.do("() => byMid('3').stop()")
    answer = await call.round()
    assert answer.stopped == ("TR_VCone",)
    assert answer.mid_to_track_id == {"4": "TR_VCone"}, "the track moves to another section"
    assert "a=group:BUNDLE 0 1 2 4 5 6\r\n" in answer.sdp
    await call.placeholders(0, 1, data=False)  # takes the place of the stopped one under a new mid
    answer = await call.round()
    assert "a=mid:3\r\n" not in answer.sdp
    call.answerer.send(video("two"))
    assert len((await call.round()).down) == 2


async def test_ice_restart_by_the_client(call: Call) -> None:
    await call.placeholders()
    before = call.answerer.read(await call.do("() => offer()")).remote
    await call.round()
    await call.do("() => pc.restartIce()")
    call.generation = 1
    offer = call.answerer.read(await call.do("() => offer()"))
    assert offer.remote.ufrag != before.ufrag
    assert offer.remote.fingerprints == before.fingerprints
    await call.round()


async def test_a_client_without_the_codec(call: Call) -> None:
    await call.placeholders()
    await call.round()
    call.answerer.send(video("odd", "video/H265"))
    call.answerer.send(video("good"))
    answer = await call.round()
    assert answer.unsupported == ("TR_VCodd",)
    assert [one.track_sid for one in answer.down] == ["TR_VCgood"]


async def test_two_connections_publisher(call: Call) -> None:
    call.answerer = Answerer(enabled_codecs=CODECS, client=models.ClientInfo(), rng=Random(1), sends=False)
    await call.placeholders()
    call.answerer.send(audio("never"))
    answer = await call.round()
    assert answer.down == ()
    assert call.answerer.take_requirement() is None
    cid = await call.do("() => microphone()")
    assert (await call.round()).published[0].cid == cid


async def test_two_connections_subscriber(call: Call) -> None:
    offerer = call.offerer
    assert offerer.is_due
    accepted = await call.our_round()
    assert accepted.remote.sctp_port == 5000
    assert not offerer.is_due

    offerer.send(audio("one", stereo=True))
    for codec in ("VP8", "VP9", "H264", "AV1"):
        offerer.send(video(codec, f"video/{codec}"))
    assert offerer.is_due
    accepted = await call.our_round()
    assert accepted.unsupported == ()
    carried = [one.payload.mime_type for one in accepted.down]
    assert carried == ["audio/opus", "video/VP8", "video/VP9", "video/H264", "video/AV1"]
    assert [one["stream"] for one in await call.seen()][:2] == ["PA_other|TR_AMone", "PA_other|TR_VCVP8"]

    offerer.stop("TR_VCVP8")
    accepted = await call.our_round()
    assert accepted.stopped == ("TR_VCVP8",)
    assert (await call.directions())["2"] == "inactive"
    offerer.send(video("again"))
    accepted = await call.our_round()
    assert {one.mid: one.track_sid for one in accepted.down if one.fresh} == {"2": "TR_VCagain"}
    assert (await call.seen())[-1]["stream"] == "PA_other|TR_VCagain"

    call.generation = 1  # an ICE restart of ours
    accepted = await call.our_round()
    assert not [one for one in accepted.down if one.fresh]
