"""Loads onnxruntime with its telemetry off, unless the environment says otherwise."""

import os
from types import ModuleType

VARIABLE = "ORT_DISABLE_TELEMETRY"


def switch_off() -> None:
    """Turns off onnxruntime's telemetry. Must be called before anything imports onnxruntime; later has no effect.

    On import its Linux wheels (seen in 1.32) write a device id and a database under the home directory and a file into
    the temporary directory; seconds later they look up their collector's host name. Only this variable stops that:
    `onnxruntime.disable_telemetry_events()` prevents neither the files nor the look-up. A value that is already set is
    the user's decision.

    >>> switch_off()
    >>> VARIABLE in os.environ
    True
    """
    os.environ.setdefault(VARIABLE, "1")


def load_onnxruntime() -> ModuleType:
    """The onnxruntime module, with telemetry off."""
    switch_off()
    import onnxruntime

    module: ModuleType = onnxruntime
    return module
