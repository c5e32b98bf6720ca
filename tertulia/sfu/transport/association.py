"""The data channels of one transport: which are open on its SCTP association, and whose turn it is to send."""

import time
from collections import OrderedDict
from collections.abc import Callable

from tertulia.protocol.errors import PeerError
from tertulia.sfu.transport import channels as dcep
from tertulia.sfu.transport.api import ChannelClosed, ChannelMessage, ChannelOpened, TransportEvent
from tertulia.sfu.transport.carrier import run
from tertulia.sfu.transport.channels import Channel, ChannelOptions
from tertulia.sfu.transport.sctp import BoundedSctp

_MESSAGES = frozenset({dcep.PPID_BINARY, dcep.PPID_STRING, dcep.PPID_BINARY_EMPTY, dcep.PPID_STRING_EMPTY})


class Association(BoundedSctp):
    """Events go to `emit`, names of odd things to `count`. LiveKit names channels by label, and so do we; of two with
    one label the newer one is meant."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        *,
        server: bool,
        emit: Callable[[TransportEvent], None],
        count: Callable[[str], None],
    ) -> None:
        super().__init__(send, server=server, count=count)
        self._emit = emit
        self._channels: dict[int, Channel] = {}
        self._data_channels = self._channels  # type: ignore[assignment]  # the base resets and removes them
        self._labels: dict[str, Channel] = {}
        self._turns: OrderedDict[int, None] = OrderedDict()
        self._next_stream = 1 if server else 0
        """RFC 8832 6: the DTLS server takes odd streams."""

    def open_channel(self, options: ChannelOptions) -> None:
        """Announce a channel of ours; ChannelOpened follows the peer's answer."""
        while self._next_stream in self._channels:
            self._next_stream += 2
        channel = self._add(self._next_stream, options)
        channel.push(dcep.PPID_DCEP, dcep.build_open(options))
        self._push(channel)

    def send(self, label: str, data: bytes) -> bool:
        channel = self._labels.get(label)
        if channel is None or channel.readyState != "open":
            self._count("data_not_open")
            return False
        if self._remote_max_message_size and len(data) > self._remote_max_message_size:
            self._count("data_oversize")
            return False
        if channel.full(len(data)):
            self._count("data_dropped_lossy" if channel.options.lossy else "data_dropped_reliable")
            return False
        channel.push(dcep.PPID_BINARY if data else dcep.PPID_BINARY_EMPTY, data or b"\0")
        self._count("data_messages_out")
        self._push(channel)
        return True

    def buffered_bytes(self, label: str) -> int:
        channel = self._labels.get(label)
        return channel.buffered_bytes if channel is not None else 0

    # sending ------------------------------------------------------------------------------------

    def _add(self, stream: int, options: ChannelOptions) -> Channel:
        channel = Channel(stream, options, self._changed)
        self._channels[stream] = channel
        self._labels[options.label] = channel
        return channel

    def _changed(self, channel: Channel, before: str) -> None:
        label = channel.options.label
        if channel.readyState == "open":
            self._emit(ChannelOpened(label))
        elif self._labels.get(label) is channel:
            del self._labels[label]
            if before == "open":
                self._emit(ChannelClosed(label))

    def _push(self, channel: Channel) -> None:
        self._turns.setdefault(channel.id)
        run(self._data_channel_flush())

    async def _data_channel_flush(self) -> None:
        """Hand messages to the association while it has nothing unsent, one per channel in turn: a lossy message waits
        for one message of the others at most, not for all of them."""
        if self._association_state is not self.State.ESTABLISHED:
            return
        while self._turns and not self._outbound_queue:
            stream, _ = self._turns.popitem(last=False)
            channel = self._channels.get(stream)
            if channel is None or not channel.waiting:
                continue
            ppid, data = channel.pop()
            if channel.waiting:
                self._turns[stream] = None
            if ppid == dcep.PPID_DCEP:
                await self._send(stream, ppid, data)
            else:
                await self._send_message(channel, ppid, data)
        await self._transmit_reconfig()

    async def _send_message(self, channel: Channel, ppid: int, data: bytes) -> None:
        options = channel.options
        lifetime_ms = options.max_lifetime_ms
        await self._send(
            channel.id,
            ppid,
            data,
            expiry=None if lifetime_ms is None else time.time() + lifetime_ms / 1000,
            max_retransmits=options.max_retransmits,
            ordered=options.ordered,
        )

    # receiving ----------------------------------------------------------------------------------

    async def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        if pp_id == dcep.PPID_DCEP:
            self._receive_dcep(stream_id, data)
            return
        channel = self._channels.get(stream_id)
        if channel is None or channel.readyState in ("closing", "closed"):
            self._count("data_unknown_channel")
        elif len(data) > dcep.MAX_MESSAGE_BYTES:
            self._count("data_oversize_in")
        elif pp_id in _MESSAGES:
            self._count("data_messages_in")
            empty = pp_id in (dcep.PPID_BINARY_EMPTY, dcep.PPID_STRING_EMPTY)
            self._emit(ChannelMessage(channel.options.label, b"" if empty else data))
        else:
            self._count("data_unknown_ppid")

    def _receive_dcep(self, stream: int, data: bytes) -> None:
        options = dcep.parse_dcep(data)
        channel = self._channels.get(stream)
        if options is None:
            if channel is not None and channel.readyState == "connecting":
                channel._setReadyState("open")
            return
        if channel is not None:
            raise PeerError("data channel is open already")
        if len(self._channels) >= dcep.MAX_CHANNELS:
            raise PeerError("too many data channels")
        channel = self._add(stream, options)
        channel._setReadyState("open")
        channel.push(dcep.PPID_DCEP, dcep.ACK)
        self._push(channel)

    def _end(self) -> None:
        super()._end()
        self._turns.clear()
        self._labels.clear()
