"""The yardstick of joins, and what is taken off them."""

import pytest

from benchmarks.joins import handshake, own_s
from tertulia.sfu.transport.dtls import DtlsIdentity


def test_a_bare_handshake_reaches_its_end() -> None:
    identity = DtlsIdentity()
    assert handshake(identity, DtlsIdentity()) > 0
    assert handshake(identity, DtlsIdentity()) > 0


def test_what_forwarding_cost_meanwhile_is_taken_off() -> None:
    # 0.1 of a core before, 0.3 after: 0.2 in the middle of the two seconds they came in
    assert own_s(1.0, 0.1, 0.3, coming_s=2.0, after_s=1.0) == pytest.approx(1.0 - 0.4 - 0.3)
