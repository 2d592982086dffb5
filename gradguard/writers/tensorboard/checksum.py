"""The checksum of records in event files, computed on whole blocks: byte by byte, Python takes 80 ns a byte."""

import functools

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # bytes whose contributions are looked up at once
CHUNK = 256 * BLOCK  # bytes whose contributions are in memory at once
SHORT = 64  # bytes below which a loop is faster
_POLYNOMIAL = 0x82F63B78  # of CRC-32C, its bits in reverse order
_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
_PLACES = np.arange(BLOCK)[::-1]  # the number of bytes that follow each byte of a block


def masked_crc32c(data: bytes) -> int:
    """CRC-32C of the data, rotated and shifted, as event files hold it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ONES


def crc32c(data: bytes) -> int:
    """CRC-32C of the data.

    The checksum is linear: that of a block is the exclusive or of what each of its bytes contributes at its place. The
    state that the bytes before it leave contributes like four bytes at the beginning of the block.
    """
    state, whole = _ONES, 0
    if len(data) >= SHORT:
        table, content = _contributions(), np.frombuffer(data, np.uint8)
        whole = len(data) - len(data) % BLOCK
        for start in range(0, whole, CHUNK):
            blocks = content[start : min(whole, start + CHUNK)].reshape(-1, BLOCK)
            for contribution in np.bitwise_xor.reduce(table[_PLACES, blocks], axis=1).tolist():
                state = contribution ^ _of_state(state, _first_places())
        rest = len(data) - whole
        if rest >= SHORT:
            contribution = int(np.bitwise_xor.reduce(table[_PLACES[-rest:], content[whole:]]))
            return contribution ^ _of_state(state, table[rest - 4 : rest][::-1]) ^ _ONES
    single = _single_bytes()
    for byte in data[whole:]:
        state = single[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ _ONES


def _of_state(state: int, places: list[list[int]] | NDArray[np.uint32]) -> int:
    """What a state contributes to the checksum of a block.

    Args:
        state: What the bytes before the block leave.
        places: The contribution of each byte at the first four places of the block.
    """
    first, second, third, fourth = places
    return int(first[state & 0xFF] ^ second[state >> 8 & 0xFF] ^ third[state >> 16 & 0xFF] ^ fourth[state >> 24])


@functools.cache
def _contributions() -> NDArray[np.uint32]:
    """The contribution of each byte that is followed by 0 to `BLOCK` - 1 others."""
    single: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        halved = np.right_shift(single, np.uint32(1))
        single = np.where(single % np.uint32(2), halved ^ np.uint32(_POLYNOMIAL), halved)
    table = np.empty((BLOCK, 256), np.uint32)
    table[0] = single
    for place in range(1, BLOCK):
        table[place] = table[place - 1] >> 8 ^ single[table[place - 1] & 0xFF]
    return table


@functools.cache
def _first_places() -> list[list[int]]:
    contributions: list[list[int]] = _contributions()[BLOCK - 4 :][::-1].tolist()
    return contributions


@functools.cache
def _single_bytes() -> list[int]:
    contributions: list[int] = _contributions()[0].tolist()
    return contributions
