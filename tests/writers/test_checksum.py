"""The checksum of the records in event files."""

from hypothesis import example, given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from gradguard.writers.tensorboard.checksum import BLOCK, CHUNK, SHORT, crc32c, masked_crc32c


@given(st.binary(max_size=3 * BLOCK))
@example(b"x" * (SHORT - 1))
@example(b"x" * SHORT)
@example(b"\xff" * BLOCK)
@example(b"ab" * BLOCK + b"x" * (SHORT - 1))
@example(bytes(range(256)) * (CHUNK // 256 + 5))
def test_it_is_the_checksum_that_tensorboard_computes(data: bytes) -> None:
    """Of any length, around the lengths of blocks and chunks too."""
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_the_known_check_value() -> None:
    """The one that every description of CRC-32C gives."""
    assert crc32c(b"123456789") == 0xE3069283
