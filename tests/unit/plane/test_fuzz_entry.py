"""The fuzzer itself runs, for a moment, with every test run."""

from tests.fuzz.receive_path import fuzz


def test_a_moment_of_fuzzing() -> None:
    assert fuzz(0.5, seed=1, say=lambda text: None) > 0
