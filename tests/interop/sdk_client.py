"""The official Python SDK in a process of its own, told what to do by JSON lines on standard input.

A separate process because the SDK brings its own copy of LiveKit's protobufs, and because a test may stop or kill it.
"""

import asyncio
import base64
import json
import sys
import time
from typing import Any

import numpy as np
from livekit import rtc

RATE = 48_000


class Media:
    """What arrived on one remote track."""

    def __init__(self) -> None:
        self.frames = 0
        self.first: float | None = None
        self.last: float | None = None
        self.max_gap_s = 0.0
        self.width = self.height = 0
        self.loudest = 0

    def seen(self) -> None:
        now = time.monotonic()
        if self.last is not None:
            self.max_gap_s = max(self.max_gap_s, now - self.last)
        self.first = self.first or now
        self.last = now
        self.frames += 1


class Client:
    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.room = rtc.Room()
        self.media: dict[str, Media] = {}
        self.data: list[dict[str, Any]] = []
        self.events: list[list[str]] = []
        self.streams: dict[str, list[int]] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.sent = 0
        self.playing: asyncio.Task[None] | None = None
        on = self.room.on
        on("track_subscribed", self._subscribed)
        on("data_received", self._data)
        on("data_track_published", self._data_track_published)
        for name in ("participant_connected", "participant_disconnected"):
            on(name, lambda participant, name=name: self.events.append([name, participant.identity]))
        for name in ("connected", "reconnecting", "reconnected"):
            on(name, lambda name=name: self.events.append([name, ""]))
        on("disconnected", lambda reason: self.events.append(["disconnected", str(reason)]))
        for name in ("track_muted", "track_unmuted"):
            on(name, lambda participant, publication, name=name: self.events.append([name, participant.identity]))
        on("track_unpublished", lambda publication, who: self.events.append(["track_unpublished", who.identity]))
        on("active_speakers_changed", lambda who: self.events.append(["speakers", ",".join(p.identity for p in who)]))

    def _data(self, packet: rtc.DataPacket) -> None:
        self.data.append(
            {
                "from": packet.participant.identity if packet.participant else "",
                "size": len(packet.data),
                "head": base64.b64encode(packet.data[:32]).decode(),
                "topic": packet.topic,
                "reliable": packet.kind == rtc.DataPacketKind.KIND_RELIABLE,
            }
        )

    def _subscribed(self, track: rtc.Track, publication: Any, participant: Any) -> None:
        key = f"{participant.identity}/{'video' if track.kind == rtc.TrackKind.KIND_VIDEO else 'audio'}"
        self.events.append(["track_subscribed", key])
        media = self.media[key] = Media()
        reader = self._video(track, media) if key.endswith("video") else self._audio(track, media)
        self.tasks.append(asyncio.create_task(reader))

    async def _video(self, track: rtc.Track, media: Media) -> None:
        async for event in rtc.VideoStream(track):
            media.seen()
            media.width, media.height = event.frame.width, event.frame.height

    async def _audio(self, track: rtc.Track, media: Media) -> None:
        async for event in rtc.AudioStream(track):
            media.seen()
            media.loudest = max(media.loudest, int(np.abs(np.frombuffer(event.frame.data, np.int16)).max(initial=0)))

    # ------------------------------------------------------------------------------------------ commands

    async def connect(self, url: str, token: str, auto_subscribe: bool = True, single: bool = True) -> dict[str, str]:
        options = rtc.RoomOptions(auto_subscribe=auto_subscribe, single_peer_connection=single)
        await self.room.connect(url, token, options)
        return {"sid": self.room.local_participant.sid, "name": self.room.name}

    async def publish_video(self, width: int = 640, height: int = 360, fps: int = 15, simulcast: bool = True) -> str:
        source = rtc.VideoSource(width, height)
        track = rtc.LocalVideoTrack.create_video_track("cam", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=simulcast)
        publication = await self.room.local_participant.publish_track(track, options)
        self.video_source, self.video_track = source, track
        self.tasks.append(asyncio.create_task(self._draw(source, width, height, fps)))
        return publication.sid

    async def _draw(self, source: rtc.VideoSource, width: int, height: int, fps: int) -> None:
        picture = np.full((height * 3 // 2, width), 128, np.uint8)
        due = time.monotonic()
        while True:
            picture[:height] = 60
            x = (self.sent * 8) % max(1, width - 64)
            picture[:64, x : x + 64] = 220
            source.capture_frame(rtc.VideoFrame(width, height, rtc.VideoBufferType.I420, picture.tobytes()))
            self.sent += 1
            due += 1 / fps
            await asyncio.sleep(max(0, due - time.monotonic()))

    async def publish_audio(self) -> str:
        source = rtc.AudioSource(RATE, 1)
        track = rtc.LocalAudioTrack.create_audio_track("mic", source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        publication = await self.room.local_participant.publish_track(track, options)
        self.audio_track = track
        self.tasks.append(asyncio.create_task(self._sing(source)))
        return publication.sid

    async def _sing(self, source: rtc.AudioSource) -> None:
        n = RATE // 100
        phase = 0
        while True:
            wave = np.sin(2 * np.pi * 440 * (np.arange(n) + phase) / RATE) * 12_000
            phase += n
            await source.capture_frame(rtc.AudioFrame(wave.astype(np.int16).tobytes(), RATE, 1, n))

    async def perform(
        self,
        colour: list[int],
        tone_hz: int = 440,
        width: int = 320,
        height: int = 180,
        fps: int = 10,
        audio: bool = True,
        video: bool = True,
        simulcast: bool = False,
        codec: str = "vp8",
        source: str = "SOURCE_CAMERA",
    ) -> dict[str, str]:
        """One colour (YUV) and a soft tone; with every second of this machine's clock 100 ms of white and a loud beep.

        One loop paces both, and the sound is not queued, so that flash and beep leave together.
        """
        sids = {}
        me = self.room.local_participant
        self.stop_performing()
        eye, ear = rtc.VideoSource(width, height), rtc.AudioSource(RATE, 1, queue_size_ms=0)
        if video:
            self.video_track = rtc.LocalVideoTrack.create_video_track("cam", eye)
            options = rtc.TrackPublishOptions(
                source=rtc.TrackSource.Value(source),
                simulcast=simulcast,
                video_codec=rtc.VideoCodec.Value(codec.upper()),
                video_encoding=rtc.VideoEncoding(max_bitrate=800_000, max_framerate=fps),
            )
            sids["video"] = (await me.publish_track(self.video_track, options)).sid
        if audio:
            self.audio_track = rtc.LocalAudioTrack.create_audio_track("mic", ear)
            options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
            sids["audio"] = (await me.publish_track(self.audio_track, options)).sid
        plain = np.full(width * height * 3 // 2, colour[0], np.uint8)
        plain[width * height :].reshape(2, -1)[:] = np.array(colour[1:], np.uint8)[:, None]
        white = np.full_like(plain, 128)
        white[: width * height] = 235
        pictures = plain.tobytes(), white.tobytes()
        self.playing = asyncio.create_task(
            self._play(eye if video else None, ear if audio else None, pictures, (width, height, fps), tone_hz)
        )
        return sids

    async def _play(
        self,
        eye: rtc.VideoSource | None,
        ear: rtc.AudioSource | None,
        pictures: tuple[bytes, bytes],
        size: tuple[int, int, int],
        tone_hz: int,
    ) -> None:
        width, height, fps = size
        n, every = RATE // 100, 100 // fps
        offset = time.time() - time.monotonic()
        tick = int((time.monotonic() + offset) * 100) + 1  # hundredths of a second since 1970
        while True:
            await asyncio.sleep(max(0.0, tick / 100 - offset - time.monotonic()))
            flash = tick % 100 < 10
            if eye is not None and tick % every == 0:
                picture = pictures[flash]
                eye.capture_frame(rtc.VideoFrame(width, height, rtc.VideoBufferType.I420, picture))
                self.sent += 1
            if ear is not None:
                at = np.arange(n) + (tick * n) % RATE
                wave = np.sin(2 * np.pi * (1000 if flash else tone_hz) * at / RATE) * (16_000 if flash else 700)
                await ear.capture_frame(rtc.AudioFrame(wave.astype(np.int16).tobytes(), RATE, 1, n))
            tick += 1

    def stop_performing(self) -> None:
        if self.playing is not None:
            self.playing.cancel()
            self.playing = None

    async def unperform(self, sids: list[str]) -> None:
        self.stop_performing()
        for sid in sids:
            await self.room.local_participant.unpublish_track(sid)

    async def mute(self, kind: str, muted: bool) -> None:
        track = self.video_track if kind == "video" else self.audio_track
        track.mute() if muted else track.unmute()

    async def unpublish(self, sid: str) -> None:
        await self.room.local_participant.unpublish_track(sid)

    async def send(self, size: int, reliable: bool = True, topic: str = "", to: list[str] | None = None) -> None:
        payload = bytes(index & 255 for index in range(size))
        await self.room.local_participant.publish_data(
            payload, reliable=reliable, topic=topic, destination_identities=to or []
        )

    async def send_text(self, size: int, topic: str) -> None:
        await self.room.local_participant.send_text("x" * size, topic=topic)

    async def send_bytes(self, size: int, topic: str) -> None:
        writer = await self.room.local_participant.stream_bytes("blob", topic=topic, total_size=size)
        block = bytes(60_000)
        sent = 0
        while sent < size:
            await writer.write(block[: min(len(block), size - sent)])
            sent += len(block)
        await writer.aclose()

    async def listen(self, topic: str) -> None:
        def text(reader: Any, identity: str) -> None:
            async def read() -> None:
                self.streams.setdefault(f"text/{topic}", []).append(len(await reader.read_all()))

            self.tasks.append(asyncio.create_task(read()))

        def data(reader: Any, identity: str) -> None:
            async def read() -> None:
                size = 0
                async for chunk in reader:
                    size += len(chunk)
                self.streams.setdefault(f"bytes/{topic}", []).append(size)

            self.tasks.append(asyncio.create_task(read()))

        self.room.register_text_stream_handler(topic, text)
        self.room.register_byte_stream_handler(topic, data)

    async def publish_data_track(self, name: str) -> str:
        self.data_track = await self.room.local_participant.publish_data_track(name=name)
        return self.data_track.info.sid

    async def push_frames(self, count: int, size: int) -> None:
        """Frames that begin with their number, a hundred in a second."""
        for number in range(count):
            payload = number.to_bytes(4, "big") + bytes(size - 4)
            self.data_track.try_push(rtc.DataTrackFrame(payload=payload))
            await asyncio.sleep(0.01)

    async def forget_streams(self) -> None:
        for frames in self.streams.values():
            frames.clear()

    def _data_track_published(self, track: rtc.RemoteDataTrack) -> None:
        frames: list[int] = []
        self.streams[f"frames/{track.publisher_identity}/{track.info.name}"] = frames

        async def read() -> None:
            async for frame in track.subscribe():
                frames.append(int.from_bytes(frame.payload[:4], "big") * 100_000 + len(frame.payload))

        self.tasks.append(asyncio.create_task(read()))

    async def serve_rpc(self, method: str, after_s: float = 0) -> None:
        async def answer(call: rtc.RpcInvocationData) -> str:
            await asyncio.sleep(after_s)
            return f"{call.caller_identity}:{call.payload}"

        self.room.local_participant.register_rpc_method(method, answer)

    async def call_rpc(self, to: str, method: str, payload: str) -> str:
        return await self.room.local_participant.perform_rpc(destination_identity=to, method=method, payload=payload)

    async def set_metadata(self, metadata: str) -> None:
        await self.room.local_participant.set_metadata(metadata)

    async def state(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "media": {key: vars(media) for key, media in self.media.items()},
            "data": self.data,
            "events": self.events,
            "streams": self.streams,
            "remote": sorted(participant.identity for participant in self.room.remote_participants.values()),
            "connected": self.room.isconnected(),
        }

    async def reset(self) -> None:
        """Start counting anew."""
        for media in self.media.values():
            media.frames, media.max_gap_s, media.last = 0, 0.0, None
        self.sent = 0
        self.data.clear()

    async def renew(self) -> None:
        """Forget everything; a fresh room object for the next connect."""
        self.stop_performing()
        for task in self.tasks:
            task.cancel()
        self.begin()

    async def leave(self) -> None:
        await self.room.disconnect()


async def main() -> None:
    client = Client()
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order = json.loads(line)
        try:
            answer = {"ok": await getattr(client, order.pop("do"))(**order)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
