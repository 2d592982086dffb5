"""Trainers in C (C11 or newer) and C++ (C++17 or newer), attached through the table that `gradguard.h` declares.

It needs nothing but the standard library's `ctypes` and a shared library of the trainer.
"""

from gradguard.integrations.native.abi import INCLUDE_DIR
from gradguard.integrations.native.program import Program, load
from gradguard.integrations.native.table import NativeArrays

__all__ = ["INCLUDE_DIR", "NativeArrays", "Program", "load"]
