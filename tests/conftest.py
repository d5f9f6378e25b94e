"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pynvml
import pytest


@pytest.fixture
def install_library() -> Iterator[Callable[[object], None]]:
    """Give a function that puts a library in the real one's place below nvidia-ml-py; undone after the test."""
    library, references = pynvml.nvmlLib, pynvml._nvmlLib_refcount
    pointers = dict(pynvml._nvmlGetFunctionPointer_cache)

    def install(replacement: object) -> None:
        pynvml.nvmlLib = replacement
        pynvml._nvmlGetFunctionPointer_cache.clear()

    yield install
    pynvml.nvmlLib, pynvml._nvmlLib_refcount = library, references
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml._nvmlGetFunctionPointer_cache.update(pointers)
