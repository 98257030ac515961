import sys
from types import SimpleNamespace

import pytest
from gpt2_runtime.errors import ProviderError
from gpt2_runtime.providers.cuda_libraries import LIBRARIES, load_cuda

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the libraries are looked for on Linux only")


def preload():
    print("Failed to load libcublas.so.13")


ONNXRUNTIME = SimpleNamespace(cuda_version="13.0", preload_dlls=preload)


def runtime(devices=1, status=0):
    """Stands for libcudart: a number of devices, or an error."""

    def count_devices(count):
        count._obj.value = devices
        return status

    def explain(status):
        return b"no CUDA-capable device is detected"

    return SimpleNamespace(cudaGetDeviceCount=count_devices, cudaGetErrorString=explain)


def test_libraries_and_a_gpu_that_are_there_are_enough(capsys):
    asked = []
    load_cuda(ONNXRUNTIME, lambda name: asked.append(name) or runtime())
    assert asked[: len(LIBRARIES)] == [name.format(major=13) for name in LIBRARIES]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("pattern", LIBRARIES)
def test_the_library_that_is_missing_is_named_with_the_remedy(pattern):
    missing = pattern.format(major=13)

    def load(name):
        if name == missing:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return runtime()

    with pytest.raises(ProviderError) as refusal:
        load_cuda(ONNXRUNTIME, load)
    complaint = str(refusal.value)
    assert complaint.startswith(f"provider cuda cannot start, {missing} of ")
    assert complaint.endswith(
        "install the NVIDIA driver"
        if missing == "libcuda.so.1"
        else "pip install 'gpt2-runtime[cuda]', which brings them, or install CUDA 13 and cuDNN 9"
    )


@pytest.mark.parametrize(
    ("found", "reason"), [(runtime(devices=0), "no device"), (runtime(status=100), "no CUDA-capable device")]
)
def test_a_machine_without_a_gpu_is_refused(found, reason):
    with pytest.raises(ProviderError, match=rf"finds no GPU \({reason}.*nvidia-smi lists, or pass provider='cpu'"):
        load_cuda(ONNXRUNTIME, lambda name: found)


def test_the_system_is_asked_where_nothing_else_is_said():
    """A CUDA that does not exist: the first library to be looked for is missing."""
    with pytest.raises(ProviderError, match=r"lib\w+\.so\.\d+ of .* is not there \(lib"):
        load_cuda(SimpleNamespace(cuda_version="99.0", preload_dlls=preload))
