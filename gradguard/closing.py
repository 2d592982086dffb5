"""What is closed at the end of a `with`, whatever ends it."""

from types import TracebackType
from typing import Self


class Closing:
    """Gives a class with a `close` the context manager that calls it."""

    def close(self) -> None:
        """Be done; once is enough, twice does no harm."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
