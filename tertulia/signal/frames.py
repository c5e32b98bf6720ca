"""What a server writes on a WebSocket besides its handshake and its goodbye (RFC 6455 5.2)."""

import struct


def frame_of(data: bytes | str) -> bytes:
    """One unmasked, unfragmented frame of a server."""
    first, payload = (0x82, data) if isinstance(data, bytes) else (0x81, data.encode())
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", first, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload
