"""The table of providers, and the choice of one, without a fallback. To add a provider, add a row."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from gpt2_runtime.errors import ProviderError, shown
from gpt2_runtime.precisions import PRECISIONS
from gpt2_runtime.providers import telemetry
from gpt2_runtime.providers.cuda_libraries import load_cuda
from gpt2_runtime.providers.provider import ALL_GRAPHS, FALLBACK, HOST, Provider, TensorMemory

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

ROWS = (
    Provider(
        name="cpu",
        execution_provider=FALLBACK,
        package="onnxruntime",
        tensors=HOST,
        graphs=ALL_GRAPHS,
        evenly=("int8", "int4"),
        widens_float16=True,
        promises=True,
    ),
    Provider(
        name="cuda",
        execution_provider="CUDAExecutionProvider",
        package="onnxruntime-gpu",
        tensors=TensorMemory(device="cuda"),
        graphs={"serving": ("fp16",), "portable": PRECISIONS},  # GroupQueryAttention's kernel is float16 only
        # onnxruntime multiplies in TF32 by default: ten bits of mantissa under the name of float32.
        options={"use_tf32": "0"},
        capture={"enable_cuda_graph": "1"},
        needs="the driver, CUDA and cuDNN",
        prepare=load_cuda,
    ),
)

PROVIDERS = {row.name: row for row in ROWS}


def load_onnxruntime() -> ModuleType:
    """The onnxruntime module; ProviderError with the remedy if no extra of this package is installed."""
    telemetry.switch_off()
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(
            error.__cause__, KeyboardInterrupt
        ):  # Ctrl-C during its import, which its C++ turns into an ImportError
            raise KeyboardInterrupt from error
        first, *others = (f"[{name}]" for name in PROVIDERS)
        remedy = f"pip install 'gpt2-runtime{first}' (or {', '.join(others)})"
        raise ProviderError(f"onnxruntime cannot be imported ({error}); {remedy}") from error
    module: ModuleType = onnxruntime
    return module


def choose_provider(name: str) -> Provider:
    """The provider of that name, if the installed onnxruntime has it and finds its libraries.

    Raises:
        ProviderError: the name is unknown, this onnxruntime does not have it, or a library is missing. There is no
            fallback to the CPU.

    >>> choose_provider("cpu").execution_provider
    'CPUExecutionProvider'
    """
    if not isinstance(name, str) or name not in PROVIDERS:
        problem = f"provider is {shown(name)}, must be one of {', '.join(PROVIDERS)}"
        raise ProviderError(problem, parameter="provider", value=name)
    provider = PROVIDERS[name]
    onnxruntime = load_onnxruntime()
    available = onnxruntime.get_available_providers()
    if provider.plugin is not None:
        from gpt2_runtime.providers import plugin  # no other start needs it

        plugin.register(onnxruntime, provider, provider.plugin)
    elif provider.execution_provider not in available:
        raise ProviderError(
            f"provider {name} is not in this onnxruntime, which has {_names(available)}; {_remedy(provider)}"
        )
    provider.prepare(onnxruntime)
    return provider


def provider_of(execution_provider: str) -> Provider:
    """The row with onnxruntime's name for it.

    >>> provider_of("CPUExecutionProvider").name
    'cpu'
    """
    (row,) = (row for row in PROVIDERS.values() if row.execution_provider == execution_provider)
    return row


def named_for(options: SessionOptions, provider: Provider) -> list[tuple[str, dict[str, str]]]:
    """The `providers` that a session is opened with; a plugin's device goes into its options instead.

    Raises:
        ProviderError: the plugin has no such device.
    """
    given = dict(provider.options)
    if provider.plugin is None:
        return [(provider.execution_provider, given)]
    from gpt2_runtime.providers import plugin

    options.add_provider_for_devices([plugin.one_device(load_onnxruntime(), provider, provider.plugin)], given)
    return []


def check_provider(provider: Provider, active: list[str]) -> None:
    """Raises ProviderError if onnxruntime has silently opened a session on another provider.

    The fallback is in every session, for single operators; `placed` checks those.
    """
    if set(active) - {provider.execution_provider, FALLBACK}:
        problem = f"provider {provider.name} was to be alone, onnxruntime has opened {_names(active)}"
        raise ProviderError(f"{problem}; install another onnxruntime")
    if provider.execution_provider not in active:
        raise ProviderError(
            f"provider {provider.name} could not start, onnxruntime fell back to {_names(active)}; "
            f"its libraries or the device are missing (check {provider.needs}), or pass provider='cpu'"
        )


def _names(providers: list[str]) -> str:
    return ", ".join(name.removesuffix("ExecutionProvider") for name in providers)


def _remedy(provider: Provider) -> str:
    # The wheels of onnxruntime install the same module: one on top of another leaves a broken mixture.
    others = sorted({row.package for row in PROVIDERS.values()} - {provider.package})
    return f"pip uninstall {' '.join(others)}, then pip install 'gpt2-runtime[{provider.name}]'"
