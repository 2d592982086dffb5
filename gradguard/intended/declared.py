"""What the user declares with `expected`: tensors and blocks whose gradient differs on purpose, with the reasons."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Masks
from gradguard.report import TensorReport, listed

EXAMPLE = '{"Wh": "truncated BPTT"}'
MAX_SHOWN = 3  # tensors in an example of what to declare; more hide what it shows


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared of one tensor.

    Attributes:
        whole: Why its whole gradient differs; "" where only blocks of it are declared.
        blocks: Why the gradient of a block differs, by the block's name; empty where the whole tensor is declared.
    """

    whole: str = ""
    blocks: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The reason in a clause, with the blocks that it is for."""
        return self.whole or "; ".join(f"{name}: {reason}" for name, reason in self.blocks.items())


def require_expected(expected: Mapping[str, str] | None, names: Iterable[str], masks: Masks) -> dict[str, Declared]:
    """What the user declared, by tensor; tensors of which nothing is declared are left out.

    A key is the name of a tensor, a block as in "Wh:forget", or a pattern such as "encoder.*" or "W*:forget". What is
    named in full has its own reason, whatever patterns match it too.

    Args:
        expected: What the user passed.
        names: All tensors.
        masks: Their named blocks.

    Raises:
        TypeError: `expected` is not a mapping.
        ValueError: A key matches nothing, or a reason is no text.
    """
    if expected is not None and not isinstance(expected, Mapping):
        raise TypeError(
            f"expected is a {type(expected).__name__}; expected a mapping from tensors to reasons, such as {EXAMPLE}"
        )
    tensors = {name: (name, "") for name in names}
    parts = {f"{name}:{block}": (name, block) for name in tensors for block in masks.get(name, {})}
    reasons: dict[tuple[str, str], str] = {}
    for key, reason in sorted((expected or {}).items(), key=lambda item: item[0] in tensors or item[0] in parts):
        _require_reason(key, reason)
        for part in _matched(key, tensors, parts):
            reasons[part] = reason
    return {name: declared for name in tensors if (declared := _of_tensor(name, reasons, masks)) is not None}


def _require_reason(key: object, reason: object) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"expected[{key!r}] is {reason!r}; expected the reason in words, such as {EXAMPLE}")


def _matched(
    key: object, tensors: Mapping[str, tuple[str, str]], parts: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str]]:
    """The tensors that a key names, else the blocks."""
    for there in (tensors, parts):
        if key in there:
            return [there[str(key)]]
    for there in (tensors, parts):
        matched = [part for name, part in there.items() if fnmatchcase(name, str(key))]
        if matched:
            return matched
    blocks = f"; the blocks are {listed(list(parts))}" if parts else ""
    raise ValueError(f"expected names {key!r}, which matches nothing; the tensors are {listed(list(tensors))}{blocks}")


def _of_tensor(name: str, reasons: Mapping[tuple[str, str], str], masks: Masks) -> Declared | None:
    whole = reasons.get((name, ""), "")
    blocks = {block: reasons[name, block] for block in masks.get(name, {}) if (name, block) in reasons}
    if whole:
        return Declared(whole)
    if blocks and np.logical_or.reduce([masks[name][block] for block in blocks]).all():
        return Declared("; ".join(dict.fromkeys(blocks.values())))
    return Declared(blocks=blocks) if blocks else None


def undeclared_entries(declared: Mapping[str, Declared], masks: Masks) -> dict[str, NDArray[np.bool_]]:
    """For each tensor of which only blocks are declared, a mask over its other entries."""
    return {
        name: ~np.logical_or.reduce([masks[name][block] for block in one.blocks])
        for name, one in declared.items()
        if one.blocks
    }


def how_to_declare(tensors: Iterable[TensorReport]) -> str:
    """How to declare that wrong gradients are meant, in a clause; "" where none could be."""
    wrong = [tensor for tensor in tensors if tensor.verdict.is_bug and tensor.verdict.meant]
    if not wrong:
        return ""
    meant = " or ".join(dict.fromkeys(tensor.verdict.meant for tensor in wrong))
    return declaration([key for tensor in wrong for key in _keys(tensor)], meant)


def declaration(keys: Sequence[str], meant: str) -> str:
    """How to declare some tensors or blocks, in a clause.

    Args:
        keys: Their names.
        meant: What a gradient like theirs may be meant for.
    """
    shown = ", ".join(f'"{key}": "..."' for key in keys[:MAX_SHOWN])
    more = ", ..." if len(keys) > MAX_SHOWN else ""
    return f"if that is meant ({meant}), declare it: expected={{{shown}{more}}}"


def _keys(tensor: TensorReport) -> Iterator[str]:
    """What to declare of a wrong tensor: its wrong blocks, or all of it where no block is right."""
    wrong = [block.name for block in tensor.blocks.values() if block.verdict.is_bug]
    if wrong and len(wrong) < len(tensor.blocks):
        yield from (f"{tensor.name}:{block}" for block in wrong)
    else:
        yield tensor.name
