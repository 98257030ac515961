"""Providers of packages of their own: none is in the table, so that a row is made whose device is the processor."""

import sys
from types import ModuleType, SimpleNamespace

import onnxruntime
import pytest
from gpt2_runtime import GREEDY, TextGenerator
from gpt2_runtime.errors import ProviderError
from gpt2_runtime.providers.plugin import Plugin, devices, one_device, register
from gpt2_runtime.providers.provider import ALL_GRAPHS, HOST, Provider
from gpt2_runtime.providers.providers import PROVIDERS, choose_provider

MODULE = "plugin_of_a_test"


def row(execution_provider="SomeExecutionProvider", **plugin):
    return Provider(
        name="some",
        execution_provider=execution_provider,
        package="onnxruntime",
        plugin=Plugin(module=MODULE, **plugin),
        tensors=HOST,
        graphs=ALL_GRAPHS,
    )


@pytest.fixture
def module(monkeypatch, tmp_path):
    """The plugin's package, whose library is no library."""
    made = ModuleType(MODULE)
    library = tmp_path / "libsome.so"
    library.write_text("not a library")
    made.get_library_path = lambda: str(library)
    monkeypatch.setitem(sys.modules, MODULE, made)
    return made


class Plugins:
    """Stands for an onnxruntime that lists devices of a library once that is registered."""

    def __init__(self, *vendors):
        self.vendors, self.registered, self.count = vendors, None, 0

    def get_ep_devices(self):
        others = [SimpleNamespace(ep_name="CPUExecutionProvider")]
        kind = SimpleNamespace(name="GPU")
        return others + [
            SimpleNamespace(ep_name="SomeExecutionProvider", device=SimpleNamespace(type=kind, vendor=vendor))
            for vendor in (self.vendors if self.registered else ())
        ]

    def register_execution_provider_library(self, name, path):
        assert self.registered is None, "already registered"
        self.registered, self.count = (name, path), self.count + 1

    def unregister_execution_provider_library(self, name):
        assert self.registered[0] == name
        self.registered = None


def refused(function, *given):
    with pytest.raises(ProviderError) as refusal:
        function(*given)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_library_is_registered_once(module):
    plugins, some = Plugins("A"), row()
    register(plugins, some, some.plugin)
    register(plugins, some, some.plugin)
    assert plugins.registered == ("some", module.get_library_path())
    assert plugins.count == 1


def test_a_package_that_is_not_installed_is_refused_with_the_remedy():
    some = row()
    complaint = refused(register, Plugins("A"), some, some.plugin)
    assert complaint == (
        "provider some is not installed (No module named 'plugin_of_a_test'); "
        "pip install --upgrade 'gpt2-runtime[some]'"
    )


@pytest.mark.usefixtures("module")
def test_an_onnxruntime_that_takes_no_plugins_is_refused():
    assert "provider some needs onnxruntime 1.24 or newer" in refused(register, SimpleNamespace(), row(), row().plugin)


def test_a_library_that_cannot_be_loaded_is_refused_with_onnxruntimes_reason(module):
    complaint = refused(register, onnxruntime, row(), row().plugin)
    assert complaint.startswith("provider some cannot be loaded (")
    assert module.get_library_path() in complaint
    module.get_library_path = lambda: 1 / 0
    assert "provider some cannot be loaded (division by zero)" in refused(register, onnxruntime, row(), row().plugin)


@pytest.mark.usefixtures("module")
def test_a_machine_without_a_device_is_refused_each_time():
    plugins = Plugins()
    for _ in range(2):
        assert "provider some finds no device here; check" in refused(register, plugins, row(), row().plugin)
        assert plugins.registered is None


@pytest.mark.usefixtures("module")
def test_one_device_is_taken_of_several():
    plugins, some = Plugins("A", "B"), row(device=1)
    register(plugins, some, some.plugin)
    assert len(devices(plugins, some)) == 2
    assert one_device(plugins, some, some.plugin).device.vendor == "B"
    third = row(device=2)
    complaint = refused(one_device, plugins, third, third.plugin)
    assert complaint == "provider some has no device 2, only 0 (GPU, A), 1 (GPU, B)"
    assert "has no device -1" in refused(one_device, plugins, some, Plugin(module=MODULE, device=-1))


def test_a_row_with_a_plugin_is_opened_on_its_device_and_asked_where_it_runs(folder, module, monkeypatch):
    """All of the road, with the processor as the device: onnxruntime lists it as it does those of plugins."""
    if not hasattr(onnxruntime, "get_ep_devices"):
        pytest.skip("this onnxruntime takes no plugins")
    monkeypatch.setitem(PROVIDERS, "some", row("CPUExecutionProvider"))
    given, add = [], onnxruntime.SessionOptions.add_provider_for_devices

    class Options(onnxruntime.SessionOptions):
        def add_provider_for_devices(self, taken, options):
            given.append((len(taken), taken[0].ep_name, options))
            add(self, taken, options)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    generator = TextGenerator.open(folder, provider="some", threads=1)
    assert given == [(1, "CPUExecutionProvider", {})]
    assert generator.session.placement.cpu == {}
    expected = TextGenerator.open(folder, threads=1).complete([5, 6, 7], max_new_tokens=9, sampling=GREEDY)
    assert generator.complete([5, 6, 7], max_new_tokens=9, sampling=GREEDY).token_ids == expected.token_ids


def test_a_plugin_that_is_not_there_is_refused_where_a_provider_is_chosen(monkeypatch):
    monkeypatch.setitem(PROVIDERS, "some", row())
    assert "provider some is not installed" in refused(choose_provider, "some")
