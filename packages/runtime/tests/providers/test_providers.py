import os
import subprocess
import sys

import pytest
from gpt2_runtime.errors import ProviderError, SettingError
from gpt2_runtime.providers import providers, threads
from gpt2_runtime.providers.providers import PROVIDERS, check_provider, choose_provider, load_onnxruntime
from gpt2_runtime.providers.threads import choose_threads, cpu_quota


def test_an_unknown_provider_is_refused_with_the_known_ones():
    with pytest.raises(ProviderError, match="provider is 'gpu', must be one of cpu, cuda"):
        choose_provider("gpu")


def test_a_provider_that_is_not_installed_is_refused_with_the_remedy(monkeypatch):
    onnxruntime = providers.load_onnxruntime()
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(ProviderError) as refusal:
        choose_provider("cuda")
    assert str(refusal.value) == (
        "provider cuda is not in this onnxruntime, which has Azure, CPU; "
        "pip uninstall onnxruntime, then pip install 'gpt2-runtime[cuda]'"
    )


def test_a_session_that_fell_back_is_refused():
    with pytest.raises(ProviderError, match="provider cuda could not start, onnxruntime fell back to CPU"):
        check_provider(PROVIDERS["cuda"], ["CPUExecutionProvider"])
    check_provider(PROVIDERS["cuda"], ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_a_session_that_has_another_provider_beside_its_own_is_refused():
    check_provider(PROVIDERS["cpu"], ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="provider cpu was to be alone, onnxruntime has opened XNNPACK, CPU; "):
        check_provider(PROVIDERS["cpu"], ["XNNPACKExecutionProvider", "CPUExecutionProvider"])


def test_ctrl_c_while_onnxruntime_is_imported_is_no_broken_installation(monkeypatch, tmp_path):
    # As the start of onnxruntime's own C++ module reports it.
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('initialization failed') from KeyboardInterrupt()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(KeyboardInterrupt):
        load_onnxruntime()


def test_without_onnxruntime_the_package_imports_and_says_what_to_install(folder):
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import gpt2_runtime\n"
        f"try: gpt2_runtime.Session.open({str(folder)!r})\n"
        "except gpt2_runtime.GPT2RuntimeError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'gpt2-runtime[cpu]'" in printed


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "2", True])
def test_a_number_of_threads_out_of_range_is_refused(threads):
    with pytest.raises(SettingError, match=f"threads is {threads!r}, must be an integer from 1 to 1024"):
        choose_threads(threads)


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"), [(8, None, 8), (8, 2.0, 2), (8, 2.1, 3), (2, 64.0, 2), (8, 0.1, 1), (1, None, 1)]
)
def test_threads_are_what_affinity_and_quota_leave(monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(threads, "usable_cpus", lambda: affinity)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert choose_threads() == expected
    assert choose_threads(5) == 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity can be set on Linux only")
def test_affinity_is_seen():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert threads.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/", {}, None),
        ("0::/a/b", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "300000 100000\n"}, 1.0),
        ("0::/host/path", {"cpu.max": "400000 100000\n"}, 4.0),
        (
            "3:cpu,cpuacct:/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        ("3:cpu:/g", {"cpu/g/cpu.cfs_quota_us": "-1\n", "cpu/g/cpu.cfs_period_us": "100000\n"}, None),
        ("4:memory:/\n0::/", {"memory/cpu.max": "100000 100000\n"}, None),
    ],
)
def test_quotas_of_both_versions_of_control_groups_are_read(tmp_path, membership, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(membership + "\n")
    assert cpu_quota(tmp_path / "membership", tmp_path) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "absent", tmp_path) is None
