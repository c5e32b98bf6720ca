"""A real browser against the hub: data channels, every message size, ICE restart, an offer of ours, ICE-TCP."""

import asyncio
import itertools
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tertulia.protocol.ids import TransportId
from tertulia.sfu.transport.api import ChannelMessage, TransportConnected, TransportEvent, TransportFailed

from ..unit.transport.peers import House, description, remote_parameters

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.interop, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

PAGE = """<!doctype html><script>
const post = async (path, body) => (await fetch(path, {method: 'POST', body: JSON.stringify(body)})).json();
const opened = channel => new Promise(done => channel.readyState === 'open' ? done() : channel.onopen = () => done());
function echoed(channel, size) {
  const sent = new Uint8Array(size).map((_, i) => (i * 7 + size) & 255);
  return new Promise((done, fail) => {
    channel.binaryType = 'arraybuffer';
    channel.onmessage = event => {
      const got = new Uint8Array(event.data);
      done(got.length === size && got.every((byte, i) => byte === sent[i]));
    };
    channel.send(sent);
  });
}
async function negotiate(pc, id) {
  await pc.setLocalDescription(await pc.createOffer());
  const answer = await post('/offer', {id, sdp: pc.localDescription.sdp});
  await pc.setRemoteDescription({type: 'answer', sdp: answer.sdp});
  return answer.id;
}
async function publisher(result) {
  const pc = new RTCPeerConnection();
  const lossy = pc.createDataChannel('_lossy', {ordered: false, maxRetransmits: 0});
  const reliable = pc.createDataChannel('_reliable', {ordered: true});
  const id = await negotiate(pc, 0);
  await Promise.all([opened(lossy), opened(reliable)]);
  result.sizes = [];
  for (const size of [1, 1000, 1190, 15000, 64000, 65536, 262144])
    if (await echoed(reliable, size)) result.sizes.push(size);
  result.lossy = await echoed(lossy, 900);
  const before = pc.localDescription.sdp.match(/a=ice-ufrag:(.*)/)[1];
  pc.restartIce();
  await negotiate(pc, id);
  result.restarted = before !== pc.localDescription.sdp.match(/a=ice-ufrag:(.*)/)[1];
  await new Promise(done => setTimeout(done, 500));
  result.after_restart = await echoed(reliable, 20000);
  result.state = pc.connectionState;
  result.dtls = pc.sctp.transport.state;
  let got = 0;
  const all = new Promise(done => reliable.onmessage = event => {
    got += event.data.byteLength;
    if (got >= 5e6) done();
  });
  await post('/flood', {id});
  await all;
  result.flood = got;
  pc.close();
}
async function subscriber(result) {
  const offer = await post('/subscribe', {});
  const pc = new RTCPeerConnection();
  const labels = [];
  const both = new Promise(done => pc.ondatachannel = event => {
    labels.push(event.channel.label);
    if (labels.length === 2) done(event.channel);
  });
  await pc.setRemoteDescription({type: 'offer', sdp: offer.sdp});
  await pc.setLocalDescription(await pc.createAnswer());
  await post('/answer', {id: offer.id, sdp: pc.localDescription.sdp});
  const channel = await both;
  await opened(channel);
  result.labels = labels.sort();
  result.subscriber_echo = await echoed(channel, 900);
  pc.close();
}
(async () => {
  const result = {};
  try { await publisher(result); await subscriber(result); } catch (error) { result.error = String(error); }
  await post('/result', result);
})();
</script>"""


class Site:
    """The page and the signalling it needs, on a free port."""

    def __init__(self, house: House, *, only_tcp: bool) -> None:
        self.house = house
        self.only_tcp = only_tcp
        self.result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.runner: web.AppRunner

    async def start(self) -> str:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_get("/", self._page)
        for path in ("offer", "subscribe", "answer", "flood", "result"):
            app.router.add_post(f"/{path}", getattr(self, f"_{path}"))
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = self.runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/"

    def _sdp(self, local: Any, kind: str) -> str:
        lines = description(local, kind).sdp.splitlines(keepends=True)
        if self.only_tcp:
            lines = [line for line in lines if not (line.startswith("a=candidate") and " udp " in line)]
        return "".join(lines)

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def _offer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        transport = TransportId(asked["id"]) if asked["id"] else self.house.hub.open("RM_browser")[0]
        local = self.house.hub.connect(transport, remote_parameters(asked["sdp"]))
        return web.json_response({"id": transport, "sdp": self._sdp(local, "answer")})

    async def _subscribe(self, request: web.Request) -> web.Response:
        transport, local = self.house.hub.open("RM_browser")
        self.house.hub.open_channel(transport, "_reliable", ordered=True, max_retransmits=None)
        self.house.hub.open_channel(transport, "_lossy", ordered=False, max_retransmits=0)
        return web.json_response({"id": transport, "sdp": self._sdp(local, "offer")})

    async def _answer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.house.hub.connect(TransportId(asked["id"]), remote_parameters(asked["sdp"]))
        return web.json_response({})

    async def _flood(self, request: web.Request) -> web.Response:
        transport = TransportId((await request.json())["id"])
        for _ in range(100):
            assert self.house.hub.send(transport, "_reliable", bytes(50_000))
        return web.json_response({})

    async def _result(self, request: web.Request) -> web.Response:
        if not self.result.done():
            self.result.set_result(await request.json())
        return web.json_response({})


@asynccontextmanager
async def browser(url: str) -> AsyncIterator[None]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--allow-loopback-in-peer-connection",
            "--disable-features=WebRtcHideLocalIpsWithMdns",
            f"--user-data-dir={profile}",
            url,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


@pytest.mark.parametrize("line", ["udp", "tcp", "lossy"])
async def test_a_browser_talks_to_the_hub(line: str) -> None:
    """`lossy`: a fifth of the first 200 datagrams (checks, handshake, first chunks) is lost."""
    only_tcp = line == "tcp"
    async with House(tcp=True) as house:
        if line == "lossy":
            dice, numbers = random.Random(11), itertools.count()
            house.plane.loses = lambda data: next(numbers) < 200 and dice.random() < 0.2

        def echo(transport: TransportId, event: TransportEvent) -> None:
            if isinstance(event, ChannelMessage):
                house.hub.send(transport, event.label, event.data)

        house.on_event = echo
        site = Site(house, only_tcp=only_tcp)
        url = await site.start()
        try:
            async with browser(url):
                result = await asyncio.wait_for(site.result, 60)
                await house.heard(TransportFailed, 2)
        finally:
            await site.runner.cleanup()
        assert result == {
            "sizes": [1, 1000, 1190, 15000, 64000, 65536, 262144],
            "lossy": True,
            "restarted": True,
            "after_restart": True,
            "state": "connected",
            "dtls": "connected",
            "flood": 5_000_000,
            "labels": ["_lossy", "_reliable"],
            "subscriber_echo": True,
        }
        assert len(house.of(TransportConnected)) == 2
        totals = house.hub.totals()
        assert not only_tcp or totals["tcp_accepted"] >= 2
        for name in ("sctp_malformed", "sctp_refused", "stun_malformed", "transports_crashed", "dtls_failed"):
            assert totals.get(name, 0) == 0, name
