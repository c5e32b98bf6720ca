"""Samples of a profile and the part of the house that each belongs to."""

import pytest

from benchmarks.profile import CIPHER, UDP, part_of, samples

SCRIPT = """\
        ffffffff8157bf93 _copy_from_iter ([kernel.kallsyms])
        ffffffff81b7b7b9 __sys_sendmmsg ([kernel.kallsyms])
            7f6bd9d2e9c0 sendmmsg (/usr/lib/libc.so.6)

            7f6bd8a1f0aa ossl_aes_gcm_encrypt_avx512 (/lib/pylibsrtp/_binding.abi3.so)
            7f6bd8a1f0ff srtp_protect (/lib/pylibsrtp/_binding.abi3.so)
"""


def test_stacks_of_a_script() -> None:
    first, second = samples(SCRIPT.splitlines())
    assert first[0] == ("_copy_from_iter", "[kernel.kallsyms]")
    assert len(first) == 3
    assert (part_of(first), part_of(second)) == (UDP, CIPHER)


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        ([("schedule", "[kernel.kallsyms]"), ("do_sys_poll", "[kernel.kallsyms]")], "kernel, the rest"),
        ([("skip_iv_len_12_init_IV", "/x/_binding.abi3.so")], CIPHER),
        ([("evp_cipher_init_internal", "/x/_binding.abi3.so")], "libsrtp and libcrypto around AES"),
        ([("srtp_get_stream", "/x/_binding.abi3.so")], "libsrtp and libcrypto around AES"),
        ([("munge_sent", "/x/sfu/plane/compiled/decisions.cpython-311-x86_64-linux-gnu.so")], "data plane"),
        ([("native_emit", "/x/sfu/plane/native.cpython-311-x86_64-linux-gnu.so")], "data plane"),
        ([("memmove", "/usr/lib/libc.so.6")], "libc"),
        ([("_PyEval_EvalFrameDefault", "/usr/bin/python3.11")], "Python: signalling, rooms, estimation"),
    ],
)
def test_parts(frames: list[tuple[str, str]], part: str) -> None:
    assert part_of(frames) == part
