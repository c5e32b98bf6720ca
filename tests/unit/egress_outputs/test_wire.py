"""AMF0, chunks, FLV tags and headers: bytes both ways, and bytes nobody should send."""

import contextlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia.egress.outputs import amf, chunks, flv, headers
from tertulia.egress.outputs.chunks import ChunkReader, Message
from tertulia.protocol.errors import PeerError
from tests.unit.egress_outputs import media

_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(_VALUES, max_size=5))
def test_amf_there_and_back(values: list[object]) -> None:
    assert amf.decode_all(b"".join(map(amf.encode, values))) == values


@given(st.binary(max_size=200))
def test_amf_of_strangers(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        amf.decode_all(data)


def test_amf_bombs() -> None:
    with pytest.raises(PeerError):
        amf.decode_all(b"\x03\0\x01a" * 100)
    with pytest.raises(PeerError):
        amf.decode_all(b"\x0a" + struct.pack(">I", 2**32 - 1) + b"\x05" * 5000)
    assert amf.decode_all(amf.encode("x" * 70_000)) == ["x" * 70_000]
    assert amf.decode_all(amf.encode(amf.EcmaArray(a=1.0))) == [{"a": 1.0}]


@given(
    st.lists(
        st.builds(
            Message,
            kind=st.sampled_from([8, 9, 18, 20]),
            stream_id=st.integers(0, 2**32 - 1),
            time_ms=st.integers(0, 2**32 - 1),
            body=st.binary(max_size=700),
        ),
        max_size=6,
    ),
    st.integers(1, 300),
    st.randoms(use_true_random=False),
)
def test_messages_there_and_back(messages: list[Message], chunk_bytes: int, rng: random.Random) -> None:
    data = chunks.encode(Message(chunks.SET_CHUNK_SIZE, 0, 0, struct.pack(">I", chunk_bytes)), 2, 128)
    data += b"".join(chunks.encode(message, 3 + index % 4, chunk_bytes) for index, message in enumerate(messages))
    reader, got = ChunkReader(), list[Message]()
    while data:
        step = rng.randint(1, 64)
        got += reader.feed(data[:step])
        data = data[step:]
    assert got == messages


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20))
def test_chunks_of_strangers(pieces: list[bytes]) -> None:
    reader = ChunkReader()
    with contextlib.suppress(PeerError):
        for piece in pieces:
            reader.feed(piece)


def test_compressed_chunk_headers() -> None:
    """What servers send and we do not: types 1, 2 and 3 opening a message, two-byte stream ids."""
    first = bytes((0x03,)) + b"\0\0\x64" + b"\0\0\x02" + b"\x14" + b"\x01\0\0\0" + b"ab"
    second = bytes((0x43,)) + b"\0\0\x0a" + b"\0\0\x01" + b"\x09" + b"c"
    third = bytes((0x83,)) + b"\0\0\x05" + b"d"
    fourth = bytes((0xC3,)) + b"e"
    wide = bytes((0x01, 0x01, 0x01)) + b"\0\0\0" + b"\0\0\x01" + b"\x08" + b"\0\0\0\0" + b"f"
    got = ChunkReader().feed(first + second + third + fourth + wide)
    assert got == [
        Message(20, 1, 100, b"ab"), Message(9, 1, 110, b"c"), Message(9, 1, 115, b"d"), Message(9, 1, 120, b"e"),
        Message(8, 0, 0, b"f"),
    ]  # fmt: skip


_MANY_STREAMS = b"".join(bytes((0, stream)) + b"\0" * 11 for stream in range(65))


@pytest.mark.parametrize(
    "data",
    [
        b"\xc3" + b"x" * 20,  # continues what never began
        b"\x03\0\0\0\xff\xff\xff\x14\0\0\0\0",  # 16 MB
        chunks.encode(Message(chunks.SET_CHUNK_SIZE, 0, 0, b"\0\0\0\0"), 2, 128),
        chunks.encode(Message(chunks.SET_CHUNK_SIZE, 0, 0, b"\1"), 2, 128),
_MANY_STREAMS,
    ],
)  # fmt: skip
def test_chunks_beyond_reason(data: bytes) -> None:
    with pytest.raises(PeerError):
        ChunkReader().feed(data)


def test_tags_of_a_stream_with_b_frames() -> None:
    (video_spec, video), (audio_spec, audio) = media.video(b_frames=2, global_header=True), media.audio()
    tagger = flv.Tagger([video_spec, audio_spec])
    script, aac_header, avc_header = sorted(tagger.preamble, key=lambda tag: (tag.kind != 18, tag.kind))
    name, _, said = amf.decode_all(script.body)[:1] + amf.decode_all(script.body)[1:]
    assert (name, said["width"], said["videocodecid"], said["audiosamplerate"]) == ("@setDataFrame", 160, 7, 48_000)
    assert aac_header.body[:2] == b"\xaf\0"
    assert aac_header.body[2:] == audio_spec.extradata
    assert avc_header.body[:5] == b"\x17\0\0\0\0"
    tags = [tag for packet in video for tag in tagger.tags(packet)]
    assert [tag.time_ms for tag in tags] == [packet.dts * 1000 // 30 for packet in video]
    shown = [tag.time_ms + int.from_bytes(tag.body[2:5], "big") for tag in tags]
    assert shown == [packet.pts * 1000 // 30 for packet in video]
    assert [tag.key_frame for tag in tags] == [packet.key_frame for packet in video]
    assert tagger.tags(audio[5])[0].body == b"\xaf\1" + audio[5].data


def test_headers_of_a_passed_through_track_come_from_its_key_frames() -> None:
    spec, small = media.video()
    _, large = media.video(width=320, height=192)
    tagger = flv.Tagger([spec])
    assert tagger.tags(small[1]) == []
    assert [tag.header for tag in tagger.tags(small[0])] == [True, False]
    assert [tag.header for tag in tagger.tags(small[30])] == [False]
    changed = tagger.tags(large[0])
    assert [tag.header for tag in changed] == [True, False]
    assert changed[0] == tagger.preamble[-1]


def test_flv_refuses_other_codecs() -> None:
    with pytest.raises(ValueError, match="not opus"):
        flv.Tagger([media.audio("opus")[0]])


def test_flv_file_there_and_back() -> None:
    tags = [flv.Tag(flv.AUDIO, 2**24 + 5, b"abc"), flv.Tag(flv.VIDEO, 7, b"\x17\1zzz", key_frame=True)]
    data = flv.file_header(audio=True, video=True) + b"".join(map(flv.file_tag, tags))
    assert flv.parse_file(data + b"\x09\0\0\xff") == tags
    with pytest.raises(PeerError):
        flv.parse_file(b"<html>")


def test_annex_b() -> None:
    _, packets = media.video()
    units = [unit[0] & 31 for unit in headers.split_annex_b(packets[0].data)]
    assert units == media.annex_b_units(packets[0].data)
    sets = headers.parameter_sets(packets[0].data)
    assert sets is not None
    assert headers.parameter_sets(sets.annex_b) == sets
    assert sets.avcc[:4] == bytes((1, *sets.sps[1:4]))
    avc = headers.annex_b_to_avc(packets[0].data)
    size = int.from_bytes(avc[:4], "big")
    assert avc[4] & 31 not in (7, 8, 9)
    assert size <= len(avc) - 4


@given(st.binary(max_size=100))
def test_headers_of_strangers(data: bytes) -> None:
    headers.parameter_sets(data)
    headers.annex_b_to_avc(data)
    headers.opus_samples(data)
    headers.is_whole_av1(data)
    headers.parse_audio_specific_config(data)


def test_av1_units() -> None:
    unit = media.video("av1")[1][0].data
    assert headers.is_whole_av1(unit)
    assert not headers.is_whole_av1(b"")
    assert not any(headers.is_whole_av1(unit[:cut]) for cut in range(len(unit) - 1, len(unit) - 20, -1))
    assert not headers.is_whole_av1(unit + b"\x12")
    assert headers.is_whole_av1(b"\x12\x00")
    assert not headers.is_whole_av1(b"\x10\x00")  # no size
    assert not headers.is_whole_av1(b"\x92\x00")  # forbidden bit


def test_audio_headers() -> None:
    for rate, channels in ((48_000, 2), (44_100, 1), (16_000, 1)):
        made = headers.audio_specific_config(rate, channels)
        assert headers.parse_audio_specific_config(made) == (rate, channels)
    spec, _ = media.audio("aac", rate=44_100, channels=1)
    assert headers.parse_audio_specific_config(spec.extradata) == (44_100, 1)
    durations = {0xFC: 960, 0x08: 960, 0x0B: 960 * 2, 0x78: 960, 0x80: 120}
    assert {toc: headers.opus_samples(bytes((toc, 2))) for toc in durations} == durations
