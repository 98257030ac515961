"""Providers that a package of their own brings: its library is registered with onnxruntime, and one device taken.

None is in the table yet. A row that has one is opened on the device, for the list of providers by name may not take it,
and a provider given several devices decides by itself where it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING

from gpt2_runtime.errors import ProviderError
from gpt2_runtime.providers.provider import Provider

if TYPE_CHECKING:
    from onnxruntime import OrtEpDevice

NEEDED = ("register_execution_provider_library", "unregister_execution_provider_library", "get_ep_devices")
REGISTERING = Lock()


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A package beside onnxruntime's own.

    Attributes:
        module: what is imported of it.
        library: the module's function that returns the path of its library.
        device: which one of the devices that it lists is taken, from 0.
    """

    module: str
    library: str = "get_library_path"
    device: int = 0


def register(onnxruntime: ModuleType, provider: Provider, plugin: Plugin) -> None:
    """Registers the plugin's library, once in a process.

    Raises:
        ProviderError: onnxruntime is too old for plugins, the package is not installed, its library cannot be loaded,
            or it finds no device here.
    """
    if not all(hasattr(onnxruntime, name) for name in NEEDED):
        raise ProviderError(
            f"provider {provider.name} needs onnxruntime 1.24 or newer, which takes plugins; {_install(provider)}"
        )
    with REGISTERING:
        if devices(onnxruntime, provider):
            return
        try:
            onnxruntime.register_execution_provider_library(provider.name, _library(provider, plugin))
        except ProviderError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base but this one
            reason = " ".join(str(error).split())
            raise ProviderError(
                f"provider {provider.name} cannot be loaded ({reason}); check {provider.needs}, or {_install(provider)}"
            ) from error
        if not devices(onnxruntime, provider):
            onnxruntime.unregister_execution_provider_library(provider.name)
            raise ProviderError(
                f"provider {provider.name} finds no device here; check {provider.needs}, or pass provider='cpu'"
            )


def devices(onnxruntime: ModuleType, provider: Provider) -> list[OrtEpDevice]:
    """Those that onnxruntime lists for the provider, in its order.

    >>> import onnxruntime
    >>> [device.ep_name for device in devices(onnxruntime, session.provider)]
    ['CPUExecutionProvider']
    """
    return [each for each in onnxruntime.get_ep_devices() if each.ep_name == provider.execution_provider]


def one_device(onnxruntime: ModuleType, provider: Provider, plugin: Plugin) -> OrtEpDevice:
    """The device that a session is opened on; a ProviderError with those that there are, if there are not as many."""
    found = devices(onnxruntime, provider)
    if not 0 <= plugin.device < len(found):
        hardware = (each.device for each in found)
        named = ", ".join(f"{place} ({each.type.name}, {each.vendor})" for place, each in enumerate(hardware))
        raise ProviderError(f"provider {provider.name} has no device {plugin.device}, only {named or 'none'}")
    return found[plugin.device]


def _library(provider: Provider, plugin: Plugin) -> str:
    try:
        module = import_module(plugin.module)
    except ImportError as error:
        raise ProviderError(f"provider {provider.name} is not installed ({error}); {_install(provider)}") from error
    return str(getattr(module, plugin.library)())


def _install(provider: Provider) -> str:
    return f"pip install --upgrade 'gpt2-runtime[{provider.name}]'"
