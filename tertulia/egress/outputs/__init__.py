"""Where a recording goes: files, HLS segments, RTMP and WebSocket streams, images; and the storage they end in."""
