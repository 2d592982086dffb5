"""The structures of `gradguard.h` in ctypes, field by field."""

import ctypes
from pathlib import Path

INCLUDE_DIR = Path(__file__).parent
"""The directory of `gradguard.h`."""
ABI_VERSION = 1
"""`GRADGUARD_ABI_VERSION` of the header."""
DESCRIBE = "gradguard_describe"
"""The function of a trainer that returns its table."""
DTYPES = {1: "float32", 2: "float64"}
"""Dtypes by `GRADGUARD_FLOAT` and `GRADGUARD_DOUBLE`."""

Loss = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p)
AfterBackward = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64)


class Tensor(ctypes.Structure):
    """`gradguard_tensor`: one parameter tensor."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("values", ctypes.c_void_p),
        ("value_count", ctypes.c_size_t),
        ("gradients", ctypes.c_void_p),
        ("gradient_count", ctypes.c_size_t),
        ("shape", ctypes.POINTER(ctypes.c_size_t)),
        ("ndim", ctypes.c_size_t),
        ("dtype", ctypes.c_int32),
    )


class Constant(ctypes.Structure):
    """`gradguard_constant`: a number of the training."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


class Table(ctypes.Structure):
    """`gradguard_table`: the tensors, the constants and the loss of a trainer."""

    _fields_ = (
        ("abi_version", ctypes.c_int32),
        ("tensor_count", ctypes.c_size_t),
        ("tensors", ctypes.POINTER(Tensor)),
        ("constant_count", ctypes.c_size_t),
        ("constants", ctypes.POINTER(Constant)),
        ("loss", Loss),
        ("user", ctypes.c_void_p),
        ("after_backward", AfterBackward),
    )
