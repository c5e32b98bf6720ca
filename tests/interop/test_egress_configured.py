"""The operator's own object store for recordings (moto's S3): a prefix, and locations that open without a key."""

from pathlib import Path

import aiohttp
import pytest
from livekit.protocol import egress

from tertulia.egress.outputs.addresses import AddressRules
from tests.interop.test_egress_outputs_storage import moto, reader, s3
from tests.unit.egress.bench import Bench
from tests.unit.egress.studio import microphone

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


async def test_prefix_and_locations_that_open(tmp_path: Path) -> None:
    async with moto() as endpoint, aiohttp.ClientSession() as http:
        async with http.put(f"{endpoint}/rec") as made:
            assert made.status == 200
        bench = Bench(
            tmp_path,
            storage=egress.StorageConfig(s3=s3(endpoint)),
            storage_prefix="/calls/2026/",
            storage_presigned=True,
            # what callers may not name, operators may
            addresses=AddressRules(allow_private=False),
        )
        bench.studio.join("anna", microphone("TR_a", 440))
        output = egress.EncodedFileOutput(filepath="tea.ogg")
        request = egress.RoomCompositeEgressRequest(room_name="studio", audio_only=True, file_outputs=[output])
        started = await bench.service.start(request)
        await bench.run(2)
        ended = await bench.stop(started.egress_id)
        assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
        (found,) = ended.file_results
        assert found.location.startswith(f"{endpoint}/rec/calls/2026/tea.ogg?")
        async with http.get(found.location) as answer:
            body = await answer.read()
        assert answer.status == 200
        assert len(body) == found.size > 10_000
        stored = await (await reader(endpoint).get_async("calls/2026/tea.ogg")).bytes_async()
        assert bytes(stored) == body
        refused = egress.EncodedFileOutput(filepath="x.ogg", s3=s3(endpoint))
        request = egress.RoomCompositeEgressRequest(room_name="studio", audio_only=True, file_outputs=[refused])
        started = await bench.service.start(request)
        await bench.run(1)
        ended = await bench.stop(started.egress_id)
        assert "address" in ended.error or "private" in ended.error, ended
