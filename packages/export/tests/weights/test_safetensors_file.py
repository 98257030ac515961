"""The safetensors library reads the weights file, and each place in it is that tensor's bytes."""

import json
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gpt2_export.errors import FolderError
from gpt2_export.weights.safetensors_file import Form, Place, places, write
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

Shapes = dict[str, tuple[int, ...]]

SHAPES: Shapes = {"wte": (7, 3), "bias": (5,), "scalar": (), "h.0.weight": (2, 3, 4)}

shapes_of_any_kind = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    min_size=1,
    max_size=6,
)


def forms(shapes: Shapes) -> dict[str, Form]:
    return {name: Form(shape) for name, shape in shapes.items()}


def any_bits(shapes: Shapes) -> dict[str, np.ndarray]:
    """Every kind of float32: denormal, negative zero, infinite, NaN with a payload."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(2**32, size=shape, dtype=np.uint32).view(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensorfile") / "model.safetensors"
    write(path, forms(SHAPES), any_bits(SHAPES).values())
    return path


@given(shapes=shapes_of_any_kind)
def test_safetensors_reads_the_file_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, shapes: Shapes) -> None:
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    arrays = any_bits(shapes)
    write(path, forms(shapes), arrays.values())
    read = load_file(path)
    assert {name: array.shape for name, array in read.items()} == shapes
    assert all(read[name].tobytes() == arrays[name].tobytes() for name in shapes)


@given(shapes=shapes_of_any_kind)
def test_each_place_is_that_tensors_bytes_and_the_first_is_aligned(
    tmp_path_factory: pytest.TempPathFactory, shapes: Shapes
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    arrays = any_bits(shapes)
    write(path, forms(shapes), arrays.values())
    content, tensor_places = path.read_bytes(), places(path)
    assert list(tensor_places) == list(shapes)
    assert min(place.offset for place in tensor_places.values()) % 64 == 0
    for name, place in tensor_places.items():
        assert place.shape == shapes[name]
        assert content[place.offset : place.offset + place.nbytes] == arrays[name].tobytes()


def test_places_in_a_file_of_another_program_are_found(tmp_path: Path) -> None:
    arrays = any_bits(SHAPES)
    save_file(arrays, tmp_path / "theirs.safetensors")
    content, tensor_places = (tmp_path / "theirs.safetensors").read_bytes(), places(tmp_path / "theirs.safetensors")
    assert tensor_places.keys() == arrays.keys()
    for name, place in tensor_places.items():
        assert content[place.offset : place.offset + place.nbytes] == arrays[name].tobytes()


def test_the_file_has_the_pytorch_format_tag_that_transformers_requires(file: Path) -> None:
    with safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_a_non_contiguous_array_is_written_in_logical_order(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write(tmp_path / "t", {"turned": Form((3, 2))}, [array])
    assert np.array_equal(load_file(tmp_path / "t")["turned"], array)


def test_no_array_is_held_while_the_next_one_is_made(tmp_path: Path) -> None:
    written: list[weakref.ref[np.ndarray]] = []

    def arrays() -> Iterator[np.ndarray]:
        for _ in range(4):
            assert not [made() for made in written if made() is not None]
            array = np.ones((8, 8), np.float32)
            written.append(weakref.ref(array))
            yield array
            del array

    write(tmp_path / "t", {str(number): Form((8, 8)) for number in range(4)}, arrays())
    assert len(written) == 4


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((3, 2), np.float32), r"w is float32 \(3, 2\), declared was float32 \(2, 3\)"),
        (np.zeros(6, np.float32), r"w is float32 \(6,\)"),
        (np.zeros((2, 3), np.float16), r"w is float16 \(2, 3\)"),
        (np.zeros((2, 3), np.float64), r"w is float64 \(2, 3\)"),
        (np.zeros((2, 3), np.int32), r"w is int32 \(2, 3\)"),
    ],
)
def test_an_array_that_is_not_as_declared_is_refused(tmp_path: Path, array: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        write(tmp_path / "t", {"w": Form((2, 3))}, [array])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_or_more_arrays_than_declared_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match="declared"):
        write(tmp_path / "t", {"a": Form((2,)), "b": Form((2,))}, [np.zeros(2, np.float32)] * count)


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_truncated_file_is_refused_by_name(file: Path, tmp_path: Path, cut: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:cut])
    with pytest.raises(FolderError, match=r"cut\.safetensors is not a whole safetensors file: .+; make the folder"):
        places(tmp_path / "cut.safetensors")


def test_a_header_that_points_outside_the_file_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [1000, 1008]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(FolderError, match="not a whole safetensors file"):
        places(tmp_path / "w.safetensors")


def test_a_file_that_is_absent_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"gone\.safetensors is missing; make the folder again"):
        places(tmp_path / "gone.safetensors")


def test_a_file_of_another_type_than_float32_is_refused_with_the_tensors_name(tmp_path: Path) -> None:
    save_file({"fine": np.zeros(2, np.float32), "half": np.zeros(2, np.float16)}, tmp_path / "t")
    with pytest.raises(FolderError, match="half is F16, its tensors must be F32"):
        places(tmp_path / "t")


def test_a_place_cannot_be_changed(file: Path) -> None:
    place = places(file)["wte"]
    assert isinstance(place, Place)
    with pytest.raises(AttributeError):
        place.offset = 0  # type: ignore[misc]
