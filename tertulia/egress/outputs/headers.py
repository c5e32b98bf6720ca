"""Codec headers as containers want them: H264 Annex B and AVC form, AudioSpecificConfig, OpusHead.

Bytes to values and back; decides nothing over time. ISO/IEC 14496-10 Annex B, ISO/IEC 14496-15 5.3.3 (avcC),
ISO/IEC 14496-3 1.6.2 (AudioSpecificConfig), RFC 7845 5.1 (OpusHead), RFC 6716 3.1 (TOC byte), AV1 5.3 (OBUs).
"""

import struct
from typing import NamedTuple

SPS, PPS, IDR, AUD = 7, 8, 5, 9

OPUS_RATE_HZ = 48_000
OPUS_SILENCE_SAMPLES = 960
_AAC_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def split_annex_b(data: bytes) -> list[bytes]:
    """NAL units between start codes; bytes before the first start code are not a NAL unit."""
    units: list[bytes] = []
    start = data.find(b"\0\0\1")
    while start >= 0:
        start += 3
        following = data.find(b"\0\0\1", start)
        unit = data[start : following if following >= 0 else len(data)]
        unit = unit.rstrip(b"\0")  # trailing_zero_8bits and the long start code's first zero
        if unit:
            units.append(unit)
        start = following
    return units


class ParameterSets(NamedTuple):
    sps: bytes
    pps: tuple[bytes, ...]

    @property
    def annex_b(self) -> bytes:
        return b"".join(b"\0\0\0\1" + unit for unit in (self.sps, *self.pps))

    @property
    def avcc(self) -> bytes:
        """AVCDecoderConfigurationRecord with four-byte lengths."""
        out = bytearray((1, self.sps[1], self.sps[2], self.sps[3], 0xFF, 0xE1))
        out += struct.pack(">H", len(self.sps)) + self.sps + bytes((len(self.pps),))
        for unit in self.pps:
            out += struct.pack(">H", len(unit)) + unit
        if self.sps[1] in (100, 110, 122, 144):  # high profiles say chroma format and depth again: 4:2:0, 8 bit
            out += b"\xfd\xf8\xf8\x00"
        return bytes(out)


def parameter_sets(data: bytes) -> ParameterSets | None:
    """The SPS and PPS in an Annex B stream, None when either is missing."""
    sps, pps = b"", list[bytes]()
    for unit in split_annex_b(data):
        if unit[0] & 31 == SPS and len(unit) >= 4 and not sps:
            sps = unit
        elif unit[0] & 31 == PPS and unit not in pps:
            pps.append(unit)
    return ParameterSets(sps, tuple(pps[:255])) if sps and pps else None


def annex_b_to_avc(data: bytes) -> bytes:
    """An access unit with lengths instead of start codes; parameter sets and delimiters travel elsewhere."""
    return b"".join(
        struct.pack(">I", len(unit)) + unit for unit in split_annex_b(data) if unit[0] & 31 not in (SPS, PPS, AUD)
    )


def is_whole_av1(data: bytes) -> bool:
    """Whether the OBUs of a temporal unit fill it exactly (AV1 5.3). A container written with others is damaged from
    there on, not only in that frame."""
    at = 0
    while at < len(data):
        header = data[at]
        if header & 0x82 != 0x02:  # forbidden bit clear, has_size set
            return False
        at += 2 if header & 4 else 1
        size = 0
        for index in range(8):  # leb128
            if at >= len(data):
                return False
            byte, at = data[at], at + 1
            size |= (byte & 0x7F) << 7 * index
            if not byte & 0x80:
                break
        at += size
    return at == len(data) > 0


class AacConfig(NamedTuple):
    sample_rate: int
    channels: int


def parse_audio_specific_config(data: bytes) -> AacConfig | None:
    """Sampling rate and channels of an AudioSpecificConfig, None when it is not one that FLV and ADTS can carry."""
    if len(data) < 2:
        return None
    index = (data[0] & 7) << 1 | data[1] >> 7
    channels = data[1] >> 3 & 15
    if index >= len(_AAC_RATES_HZ) or not 1 <= channels <= 7:
        return None
    return AacConfig(_AAC_RATES_HZ[index], channels)


def audio_specific_config(sample_rate: int, channels: int) -> bytes:
    """AAC-LC."""
    index = _AAC_RATES_HZ.index(sample_rate)
    return bytes((2 << 3 | index >> 1, (index & 1) << 7 | channels << 3))


def opus_head(channels: int, pre_skip: int = 312) -> bytes:
    return b"OpusHead" + struct.pack("<BBHIhB", 1, channels, pre_skip, OPUS_RATE_HZ, 0, 0)


def opus_silence(channels: int) -> bytes:
    """A CELT frame of 20 ms that decodes to silence."""
    return bytes((0xFC if channels == 2 else 0xF8, 0xFF, 0xFE))


def opus_samples(packet: bytes) -> int:
    """How many samples at 48 kHz an Opus packet lasts; 0 for one that is not Opus."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    if code == 3:
        count = packet[1] & 63 if len(packet) > 1 else 0
    else:
        count = 1 if code == 0 else 2
    return min(frame * count, 5760)


def _ogg_crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)


_OGG_CRC = _ogg_crc_table()


def ogg_page(payload: bytes, *, flags: int, granule: int, serial: int, sequence: int) -> bytes:
    """One packet as one page (RFC 3533 6)."""
    lacing = [255] * (len(payload) // 255) + [len(payload) % 255]
    page = (
        b"OggS" + struct.pack("<BBqIIIB", 0, flags, granule, serial, sequence, 0, len(lacing)) + bytes(lacing) + payload
    )
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _OGG_CRC[crc >> 24 ^ byte]
    return page[:22] + struct.pack("<I", crc) + page[26:]


def ogg_opus_start(head: bytes) -> bytes:
    """The shortest Ogg Opus file, from which a muxer can copy the stream's parameters."""
    tags = b"OpusTags" + struct.pack("<I", 8) + b"tertulia" + struct.pack("<I", 0)
    pages = ((head, 2, 0), (tags, 0, 0), (opus_silence(head[9]), 4, OPUS_SILENCE_SAMPLES))
    return b"".join(
        ogg_page(payload, flags=flags, granule=granule, serial=1, sequence=number)
        for number, (payload, flags, granule) in enumerate(pages)
    )
