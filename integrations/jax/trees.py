"""Trees of arrays as mappings from names to arrays, on the device and in NumPy."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradguard.arrays import Array

WRAPPED = ".value"
"""The end of the name of each leaf in the state of a flax `nnx` module."""


def named_leaves(tree: object) -> dict[str, Any]:
    """The leaves of a tree by name: the keys on the way to a leaf, joined with dots; "params" for one array.

    Raises:
        ValueError: Two leaves have one name.
    """
    pairs = _pairs(tree)
    names = [name or "params" for name, _ in pairs]
    if names and all(name.endswith(WRAPPED) for name in names):
        names = [name.removesuffix(WRAPPED) for name in names]
    leaves = dict(zip(names, [leaf for _, leaf in pairs], strict=True))
    if len(leaves) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two arrays have the name {name!r}: a key has a dot in it; give one of them another key")
    return leaves


def _pairs(tree: object) -> list[tuple[str, Any]]:
    """The leaves of a tree, each with the keys on the way to it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def require_alive(role: str, tree: object) -> None:
    """Refuse arrays that are gone.

    Raises:
        ValueError: A step has donated some of them; the message names them.
    """
    gone = [name for name, leaf in _pairs(tree) if isinstance(leaf, jax.Array) and leaf.is_deleted()]
    if gone:
        raise ValueError(
            f"{role} {', '.join(map(repr, gone))}: deleted, since donated to a jitted step (donate_argnums); call the "
            "guard before that step, with the arrays that the step is then called with"
        )


def require_checkable(leaves: Mapping[str, Any]) -> None:
    """Refuse parameters that cannot be checked.

    Raises:
        TypeError: One is no array of real floating-point numbers; the message names it.
        ValueError: There is none, or one was donated, or lies on devices of other processes.
    """
    if not leaves:
        raise ValueError("params has no arrays; expected a tree of arrays: what the loss is differentiated by")
    require_alive("parameter", leaves)
    for name, leaf in leaves.items():
        if not (isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)):
            what = f"has dtype {leaf.dtype}" if hasattr(leaf, "dtype") else f"is a {type(leaf).__name__}"
            raise TypeError(
                f"parameter {name!r} {what}; expected an array of floating-point numbers: pass what the loss is "
                "differentiated by as params, and the rest as further arguments"
            )
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(
                f"parameter {name!r} lies on devices of several processes; expected arrays that this process holds: "
                "check on one process, with the arrays gathered there"
            )


def host(leaf: Any) -> Array:
    """An array in NumPy, in memory of its own: a view would keep the array from being donated.

    A floating dtype that NumPy lacks, such as bfloat16, becomes float32, which holds the same numbers.
    """
    array = np.array(leaf)
    return array if array.dtype.kind in "fiubc" else array.astype(np.float32)


def unit_roundoff(dtype: Any) -> float:
    """Half the distance from 1 to the next number of a floating dtype: 2^-24 for float32."""
    return float(jnp.finfo(dtype).eps) / 2  # type: ignore[no-untyped-call]
