"""What `expected` names, and what it refuses."""

import numpy as np
import pytest

from gradguard.intended import Declared, require_expected

NAMES = ("enc.Wx", "enc.Wh", "dec.W", "dec[0]")
HALVES = {"i": np.array([True, False]), "f": np.array([False, True])}
MASKS = {"enc.Wx": HALVES, "enc.Wh": HALVES}


@pytest.mark.parametrize(
    ("expected", "declared"),
    [
        (None, {}),
        ({}, {}),
        ({"dec.W": "detached"}, {"dec.W": Declared("detached")}),
        ({"enc.*": "cut"}, {"enc.Wx": Declared("cut"), "enc.Wh": Declared("cut")}),
        ({"enc.Wh:f": "slow"}, {"enc.Wh": Declared(blocks={"f": "slow"})}),
        ({"*:f": "slow"}, {"enc.Wx": Declared(blocks={"f": "slow"}), "enc.Wh": Declared(blocks={"f": "slow"})}),
        ({"dec[0]": "its name, not a pattern"}, {"dec[0]": Declared("its name, not a pattern")}),
        ({"enc.Wx": "by name", "enc.*": "cut"}, {"enc.Wx": Declared("by name"), "enc.Wh": Declared("cut")}),
        ({"enc.Wx": "whole", "enc.Wx:f": "part"}, {"enc.Wx": Declared("whole")}),
        ({"enc.Wx:i": "cut", "enc.Wx:f": "cut"}, {"enc.Wx": Declared("cut")}),
    ],
)
def test_keys_are_tensors_blocks_and_patterns(expected: dict[str, str] | None, declared: dict[str, Declared]) -> None:
    """What is named in full goes before patterns, and all blocks of a tensor are the whole of it."""
    assert require_expected(expected, NAMES, MASKS) == declared


@pytest.mark.parametrize("key", ["enc.Wz", "enc", "enc.Wx:o", "dec.W:f", "*:o", "", 3])
def test_a_key_that_matches_nothing_is_an_error(key: object) -> None:
    """It would be a declaration that the user believes in, and nothing would follow from it."""
    with pytest.raises(ValueError, match="matches nothing") as raised:
        require_expected({key: "cut"}, NAMES, MASKS)  # type: ignore[dict-item]  # the mistake
    assert repr(key) in str(raised.value)
    assert "the tensors are enc.Wx, enc.Wh, dec.W and dec[0]; the blocks are enc.Wx:i, enc.Wx:f" in str(raised.value)


@pytest.mark.parametrize("reason", [True, None, "", "  ", 3])
def test_a_reason_is_text(reason: object) -> None:
    """Without one nobody could tell later whether the difference is still what was meant."""
    with pytest.raises(ValueError, match=r"expected\['dec.W'\] is .*; expected the reason in words"):
        require_expected({"dec.W": reason}, NAMES, MASKS)  # type: ignore[dict-item]  # the mistake


@pytest.mark.parametrize("expected", [["dec.W"], "dec.W", {"dec.W"}])
def test_names_alone_are_refused(expected: object) -> None:
    """The message shows a mapping."""
    with pytest.raises(TypeError, match="a mapping from tensors to reasons, such as"):
        require_expected(expected, NAMES, MASKS)  # type: ignore[arg-type]  # the mistake
