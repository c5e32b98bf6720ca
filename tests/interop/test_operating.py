"""What an operator uses beside the SDKs: `tertulia egress`, /metrics, /healthz, /readyz, on a server with a call."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from livekit import api
from livekit.rtc import ConnectError as RtcError
from livekit.rtc import Room

from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant
from tests.interop.conftest import Tab
from tests.interop.live import KEY, ROOT, SECRET, token
from tests.interop.sdk import SdkClient
from tests.interop.studio import ACTIVE, RED, Studio, lasts, near, play

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

MakeTab = Callable[[], Coroutine[Any, Any, Tab]]
MakeSdk = Callable[[], Coroutine[Any, Any, SdkClient]]


async def run(studio: Studio, *words: str) -> tuple[int, str, str]:
    """`tertulia egress ...`: exit status, standard output, standard error."""
    whom = ["--url", studio.server.url, "--api-key", KEY, "--api-secret", SECRET]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tertulia", "egress", *whom, *words, cwd=ROOT, stdout=-1, stderr=-1
    )
    out, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_egress_on_the_command_line(studio: Studio, tmp_path: Path) -> None:
    assert await run(studio, "list") == (0, "none\n", "")
    status, _, err = await run(studio, "start", "--room", studio.room, "--file", "x.mp4")
    assert (status, "requested room does not exist" in err) == (1, True)
    sids = await studio.enter("ada", RED)
    wish = tmp_path / "wish.json"
    wish.write_text(
        json.dumps(
            {
                "room_name": studio.room,
                "layout": "grid",
                "advanced": {"width": 320, "height": 180, "framerate": 10, "video_bitrate": 300},
                "file_outputs": [{"filepath": "{room_name}.mp4"}],
            }
        )
    )
    status, out, err = await run(studio, "start", str(wish))
    assert status == 0, err
    egress_id = next(word for word in out.split() if word.startswith("EG_"))
    status, out, err = await run(
        studio, "start", "--type", "track", "--room", studio.room, "--track", sids["video"], "--file", "cam"
    )
    assert status == 0, err
    track_id = next(word for word in out.split() if word.startswith("EG_"))
    await studio.active(egress_id)
    await studio.active(track_id)
    await asyncio.sleep(2)
    status, out, _ = await run(studio, "list", "--active")
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        [egress_id, "active", studio.room],
        [track_id, "active", studio.room],
    ]
    status, out, _ = await run(studio, "list", "--id", egress_id, "--json")
    assert json.loads(out)["items"][0]["status"] == "EGRESS_ACTIVE"
    status, out, err = await run(studio, "stop", egress_id, track_id)
    assert status == 0, err
    info, track = await studio.ended(egress_id), await studio.ended(track_id)
    lasts(info.file_results[0], tmp_path / f"{studio.room}.mp4")
    lasts(track.file_results[0], tmp_path / "cam.webm")
    status, out, _ = await run(studio, "list", "--active")
    assert out == "none\n"
    status, out, _ = await run(studio, "list")
    assert str(tmp_path / f"{studio.room}.mp4") in out
    status, _, err = await run(studio, "stop", egress_id)
    assert status == 1
    assert "egress with status EGRESS_COMPLETE cannot be stopped (failed_precondition)" in err
    status, _, err = await run(studio, "start", "--room", studio.room, "--file", "../x.mp4")
    assert status == 1
    assert "filepath" in err
    assert "Traceback" not in err
    at = play(tmp_path / "cam.webm")
    assert near(at.colour_at(at.flashes(160, 90)[0] + 0.5, 160, 90), RED)


async def test_tokens_and_keys_that_do_not_open_say_why(studio: Studio) -> None:
    """On the command line as in a client: one line, and what to do."""
    claims = Claims(KEY, "ada", video=VideoGrant(room_join=True, room=studio.room))
    expired = build_token(claims, SECRET, now_s=int(time.time()) - 8_000, lifetime_s=100)
    with pytest.raises(RtcError, match=r"the token expired 7\d{3} s ago"):
        await Room().connect(studio.server.url.replace("http", "ws"), expired)
    for key, secret, expected in (
        ("APInobody", SECRET, "invalid API key: 'APInobody'; is the token meant for another server?"),
        (KEY, "x" * 40, f"the token was not signed with the secret of '{KEY}'"),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tertulia", "egress", "--url", studio.server.url, "--api-key", key),
            *("--api-secret", secret, "list"), cwd=ROOT, stdout=-1, stderr=-1,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 40)
        assert (process.returncode, out, len(err.splitlines())) == (1, b"", 1)
        assert expected in err.decode()
        assert secret not in err.decode()


async def test_health_and_metrics(studio: Studio, make_tab: MakeTab, make_sdk: MakeSdk) -> None:
    """LiveKit's names with numbers that fit the call: two people, four tracks, each seen by the other."""
    assert await studio.server.get("/healthz") == "OK"
    assert await studio.server.get("/readyz") == "ready"

    def total(figures: dict[str, float], name: str, **labels: str) -> float:
        """Sum over the rows of one metric that carry these labels."""
        found = [
            value
            for key, value in figures.items()
            if key.partition("{")[0] == name and all(f'{label}="{word}"' in key for label, word in labels.items())
        ]
        assert found, f"{name} {labels} is missing"
        return sum(found)

    before = await studio.server.metrics()
    assert total(before, "livekit_room_total") == 0
    assert total(before, "livekit_room_participant_total") == 0
    ada, ann = await make_sdk(), await make_tab()
    await ada.do("connect", url=studio.server.url, token=token(studio.room, "ada"))
    await ada.do("perform", colour=RED)
    await ann.do("join", studio.server.url, token(studio.room, "ann"))
    await ann.do(
        "publish",
        True,
        True,
        {"publish": {"simulcast": False}, "capture": {"resolution": {"width": 320, "height": 180}}},
    )
    await ada.until(lambda s: s["media"].get("ann/video", {}).get("frames", 0) > 3)
    begun = await ann.until(lambda s: s["remote"].get("ada", {}).get("video", {}).get("framesDecoded", 0) > 3)
    egress = await studio.api.egress.start_track_egress(
        api.TrackEgressRequest(
            room_name=studio.room,
            track_id=begun["remote"]["ada"]["video"]["sid"],
            file=api.DirectFileOutput(filepath="cam"),
        )
    )
    assert (await studio.active(egress.egress_id)).status == ACTIVE
    first = await studio.server.metrics()
    await asyncio.sleep(2)
    figures = await studio.server.metrics()
    assert total(figures, "livekit_room_total") == 1
    assert total(figures, "livekit_participant_total") == 2
    assert total(figures, "livekit_room_participant_total") == 2
    for kind in ("audio", "video"):
        assert total(figures, "livekit_track_published_total", kind=kind) == 2
        assert total(figures, "livekit_track_subscribed_total", kind=kind) == 2
    for direction in ("incoming", "outgoing"):
        packets = total(figures, "livekit_packet_total", direction=direction) - total(
            first, "livekit_packet_total", direction=direction
        )
        size = total(figures, "livekit_packet_bytes", direction=direction) - total(
            first, "livekit_packet_bytes", direction=direction
        )
        assert 100 < packets < 4000, direction
        assert 50 < size / packets < 1400, direction
        assert total(figures, "livekit_nack_total", direction=direction) >= 0
        assert total(figures, "livekit_pli_total", direction=direction) >= 0
        assert 0 <= total(figures, "livekit_packet_loss_rate", direction=direction) < 0.2
    assert total(figures, "livekit_pli_total", direction="outgoing") >= 1, "a recording begins with a key frame"
    forwarded = total(figures, "livekit_forwarded_rtp_total") - total(first, "livekit_forwarded_rtp_total")
    assert 100 < forwarded < 4000
    assert total(figures, "livekit_packet_loss_total") >= 0
    assert total(figures, "livekit_session_join_latency_ms_count") == 2
    assert 0 < total(figures, "livekit_session_join_latency_ms_sum") < 5000
    assert total(figures, "livekit_egress_available") == 1
    assert total(figures, "livekit_egress_requests", type="track") == 1
    assert total(figures, "livekit_webhook_queue_length") == 0
    await ada.do("leave")
    await ann.do("leave")
    await studio.ended(egress.egress_id)
    await studio.api.room.delete_room(api.DeleteRoomRequest(room=studio.room))
    after = await studio.server.metrics()
    for name in ("room_total", "participant_total", "track_published_total", "track_subscribed_total"):
        assert total(after, f"livekit_{name}") == 0, name
