"""Sets options of ExecuTorch's XNNPACK backend, for which its Python binding has no call.

The runtime library exports `executorch::runtime::set_option` and `get_option`; a `BackendOption` is a key of 64
bytes and a `std::variant<bool, int, std::array<char, 256>>`, whose index follows its 256 bytes.

Source: pytorch/executorch runtime/backend/options.h and interface.h.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

_BACKEND = b"XnnpackBackend"
_BOOL = 0
_LIBRARIES = ("libexecutorch.so", "libexecutorch.dylib")
_ARGUMENTS = "EPKcNS0_4SpanINS0_13BackendOptionEEE"
_SET = f"_ZN10executorch7runtime10set_option{_ARGUMENTS}"
_GET = f"_ZN10executorch7runtime10get_option{_ARGUMENTS}"


class _BackendOption(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_char * 64),
        ("value", ctypes.c_uint8 * 256),
        ("kind", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
    )


class _Span(ctypes.Structure):
    _fields_ = (("data", ctypes.POINTER(_BackendOption)), ("size", ctypes.c_size_t))


def set_weight_cache(*, enabled: bool) -> bool:
    """Let methods that are loaded from now on share packed weights, or not.

    Returns:
        Whether the backend now says so; False where the library does not export the calls. Nothing depends on it
        but memory and the time to load.
    """
    library = _library()
    if library is None:
        return False
    option = _BackendOption(key=b"weight_cache_enabled", kind=_BOOL)
    option.value[0] = enabled
    if _call(library, _SET, option) != 0:
        return False
    found = _BackendOption(key=b"weight_cache_enabled", kind=_BOOL)
    found.value[0] = not enabled
    return _call(library, _GET, found) == 0 and bool(found.value[0]) == enabled


def _call(library: ctypes.CDLL, symbol: str, option: _BackendOption) -> int:
    function = getattr(library, symbol)
    function.argtypes = (ctypes.c_char_p, _Span)
    function.restype = ctypes.c_uint32
    return int(function(_BACKEND, _Span(ctypes.pointer(option), 1)))


def _library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("executorch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for name in _LIBRARIES:
            path = Path(folder, "lib", name)
            if path.is_file():
                library = ctypes.CDLL(str(path))
                return library if hasattr(library, _SET) and hasattr(library, _GET) else None
    return None
