"""A guard of a sine, and a call of it from another thread."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gradguard import GradGuard


def sine(**options: Any) -> tuple[dict[str, Any], GradGuard]:
    """Parameters of a sine, and a guard of them."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    return params, GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, **options)


def in_another_thread(act: Callable[[], object]) -> list[BaseException]:
    """What an act raises there."""
    raised: list[BaseException] = []

    def caught() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=caught, name="other")
    thread.start()
    thread.join()
    return raised
