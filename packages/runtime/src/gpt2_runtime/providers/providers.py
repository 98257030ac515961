"""Where and on how many threads a graph runs: both are chosen here, explicitly, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from gpt2_runtime.errors import ProviderError, shown
from gpt2_runtime.providers import telemetry
from gpt2_runtime.providers.cuda_libraries import load_cuda


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider of onnxruntime and the device that its tensors live on."""

    name: str
    execution_provider: str
    device: str
    options: Mapping[str, str] = field(default_factory=dict)


PROVIDERS = {
    "cpu": Provider(name="cpu", execution_provider="CPUExecutionProvider", device="cpu"),
    # onnxruntime multiplies in TF32 on CUDA unless told otherwise: ten bits of mantissa under the name of float32.
    "cuda": Provider(name="cuda", execution_provider="CUDAExecutionProvider", device="cuda", options={"use_tf32": "0"}),
}


def load_onnxruntime() -> ModuleType:
    """The onnxruntime module; ProviderError with the remedy where neither extra of this package is installed."""
    telemetry.switch_off()
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C within it, of which its C++ makes this
            raise KeyboardInterrupt from error
        remedy = "pip install 'gpt2-runtime[cpu]' (or [cuda])"
        raise ProviderError(f"onnxruntime cannot be imported ({error}); {remedy}") from error
    module: ModuleType = onnxruntime
    return module


def choose_provider(name: str) -> Provider:
    """The provider of that name, which the installed onnxruntime has been built with and finds its libraries for.

    Raises:
        ProviderError: an unknown name, one that this onnxruntime lacks, or a library that is missing. CPU is never
            taken in its place.

    >>> choose_provider("cpu").execution_provider
    'CPUExecutionProvider'
    """
    if not isinstance(name, str) or name not in PROVIDERS:
        raise ProviderError(f"provider is {shown(name)}, must be one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[name]
    available = load_onnxruntime().get_available_providers()
    if provider.execution_provider not in available:
        raise ProviderError(
            f"provider {name} is not in this onnxruntime, which has {_names(available)}; {_remedy(name)}"
        )
    if name == "cuda":
        load_cuda(load_onnxruntime())
    return provider


def check_provider(provider: Provider, active: list[str]) -> None:
    """Refuses a session that onnxruntime has quietly opened on something else than `provider`."""
    if provider.execution_provider not in active:
        raise ProviderError(
            f"provider {provider.name} could not start, onnxruntime fell back to {_names(active)}; "
            f"its libraries or the device are missing (check the driver, CUDA and cuDNN), or pass --provider cpu"
        )


def _names(providers: list[str]) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in providers)


def _remedy(name: str) -> str:
    # The two wheels install the same module: the one on top of the other leaves a broken mixture.
    other = "onnxruntime" if name == "cuda" else "onnxruntime-gpu"
    return f"pip uninstall {other}, then pip install 'gpt2-runtime[{name}]'"
