"""onnxruntime's telemetry: off, unless the environment says otherwise."""

from __future__ import annotations

import os

VARIABLE = "ORT_DISABLE_TELEMETRY"


def switch_off() -> None:
    """Switches onnxruntime's telemetry off. Call it before importing onnxruntime; later it has no effect.

    Its wheels for Linux (seen in 1.32) write a device id and a database below the home directory as they are imported,
    and a file into the temporary directory; seconds later they look up their collector's name. Only this variable stops
    that: `onnxruntime.disable_telemetry_events()` changes neither the files nor the look-up. A value that is there
    already, whatever it is, is the user's decision.

    >>> switch_off()
    >>> VARIABLE in os.environ
    True
    """
    os.environ.setdefault(VARIABLE, "1")
