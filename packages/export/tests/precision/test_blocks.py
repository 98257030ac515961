"""onnxruntime's own operator multiplies by these blocks and scales, and no number is further off than necessary."""

import numpy as np
import onnx
import onnxruntime
import pytest
from gpt2_export.precision import blocks
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper


def weights(N: int, K: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (N, K)).astype(np.float32)


def multiplied(x: np.ndarray, made: tuple[np.ndarray, np.ndarray], bits: int) -> np.ndarray:
    """MatMulNBits of x with activations in float32: the plain meaning of blocks and scales."""
    levels, scales = made
    N, count, _ = levels.shape
    K = x.shape[1]
    attributes = {"K": K, "N": N, "bits": bits, "block_size": K // count, "accuracy_level": 1}
    node = helper.make_node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **attributes)
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["M", K])]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["M", N])]
    tensors = [onnx.numpy_helper.from_array(levels, "b"), onnx.numpy_helper.from_array(scales, "s")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, tensors), opset_imports=opsets, ir_version=9
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_onnxruntime_multiplies_by_the_dequantized_matrix(bits: int, block: int) -> None:
    weight, x = weights(24, 128), weights(5, 128, seed=1)
    made = blocks.quantize(weight, bits=bits, block=block)
    expected = x @ blocks.dequantize(*made, bits=bits).T
    np.testing.assert_allclose(multiplied(x, made, bits), expected, rtol=0, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 4]), st.floats(1e-6, 1e6))
def test_no_number_is_off_by_more_than_its_blocks_largest_allows(seed: int, bits: int, size: float) -> None:
    weight = weights(3, 64, seed) * np.float32(size)
    back = blocks.dequantize(*blocks.quantize(weight, bits=bits, block=32), bits=bits)
    largest = np.abs(weight.reshape(3, 2, 32)).max(-1, keepdims=True)
    step = largest / (127 if bits == 8 else 8)
    # In four bits a scale may clip the largest number: the loss there is gained elsewhere.
    limit = step * (0.51 if bits == 8 else 3)
    assert (np.abs(back - weight).reshape(3, 2, 32) <= limit).all()


def test_four_bits_are_closer_than_plain_rounding() -> None:
    weight = weights(64, 256)
    back = blocks.dequantize(*blocks.quantize(weight, bits=4, block=64), bits=4)
    part = weight.reshape(64, 4, 64)
    largest = np.take_along_axis(part, np.abs(part).argmax(-1)[..., None], -1)
    plain = (np.clip(np.rint(part / (largest / -8)), -8, 7) * (largest / -8)).reshape(64, 256)
    assert ((back - weight) ** 2).mean() < 0.95 * ((plain - weight) ** 2).mean()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_block_of_zeros_stays_zero_and_a_row_alone_is_the_row_in_the_matrix(bits: int) -> None:
    weight = weights(600, 32)  # more rows than are computed at a time
    weight[3, :16] = 0
    levels, scales = blocks.quantize(weight, bits=bits, block=16)
    assert not blocks.dequantize(levels, scales, bits=bits)[3, :16].any()
    alone = blocks.quantize(weight[599:], bits=bits, block=16)
    np.testing.assert_array_equal(alone[0], levels[599:])
    np.testing.assert_array_equal(alone[1], scales[599:])
