"""CTranslate2: its own model specification, filled from the checkpoint as its GPT-2 loader does, and its Generator.

Its transformers converter would install torch in this environment, and then `import ctranslate2` imports torch too.
"""

import ctypes
import sysconfig
from pathlib import Path
from time import perf_counter
from typing import Any

from protocol import Generated, serve

from adapters.tensors import dummy_tokens, read_config, read_tensors

COMPUTE_TYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8_float32"}
CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")


class CTranslate2:
    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        from ctranslate2.specs import Activation, TransformerDecoderModelSpec

        config, tensors = read_config(checkpoint), read_tensors(checkpoint)
        spec = TransformerDecoderModelSpec.from_config(
            config["n_layer"], config["n_head"], pre_norm=True, activation=Activation.GELUTanh
        )
        decoder = spec.decoder
        decoder.scale_embeddings = False
        decoder.embeddings.weight = decoder.projection.weight = tensors["wte.weight"]
        decoder.position_encodings.encodings = tensors["wpe.weight"]
        set_norm(decoder.layer_norm, tensors, "ln_f")
        for index, layer in enumerate(decoder.layer):
            set_norm(layer.self_attention.layer_norm, tensors, f"h.{index}.ln_1")
            set_linear(layer.self_attention.linear[0], tensors, f"h.{index}.attn.c_attn")
            set_linear(layer.self_attention.linear[1], tensors, f"h.{index}.attn.c_proj")
            set_norm(layer.ffn.layer_norm, tensors, f"h.{index}.ln_2")
            set_linear(layer.ffn.linear_0, tensors, f"h.{index}.mlp.c_fc")
            set_linear(layer.ffn.linear_1, tensors, f"h.{index}.mlp.c_proj")
        spec.register_vocabulary(dummy_tokens(config["vocab_size"]))
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "t0"
        spec.config.layer_norm_epsilon = config["layer_norm_epsilon"]
        spec.validate()
        spec.optimize(quantization=COMPUTE_TYPES[precision])
        Path(target).mkdir()
        spec.save(target)

    def load(self, model: str, precision: str, threads: int, device: str = "cpu") -> None:
        from ctranslate2 import Generator

        if device == "cuda":
            load_cublas(Path(sysconfig.get_path("purelib")))
        self.device = device
        self.generator = Generator(
            model, device=device, compute_type=COMPUTE_TYPES[precision], inter_threads=1, intra_threads=threads
        )

    def release(self) -> None:
        """Releases weights and buffers; the next run loads them again."""
        self.generator.unload_model()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        if not self.generator.model_is_loaded:
            self.generator.load_model()
        return self.called_back(prompts, new_tokens) if self.device == "cpu" else self.twice(prompts, new_tokens)

    def twice(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        """Times the first token in a separate run: a callback for every token of every row is expensive on a GPU."""
        start = perf_counter()
        self.run(prompts, 1)
        first = perf_counter() - start
        start = perf_counter()
        ids = self.run(prompts, new_tokens)
        return Generated(ids, (start, start + first, perf_counter()))

    def called_back(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        first: list[float] = []

        def note_first(step: Any) -> bool:
            if step.step == 0:
                first.append(perf_counter())
            return False

        start = perf_counter()
        ids = self.run(prompts, new_tokens, callback=note_first)
        end = perf_counter()
        return Generated(ids, (start, first[-1], end))

    def run(self, prompts: list[list[int]], new_tokens: int, **more: Any) -> list[list[int]]:
        results = self.generator.generate_batch(
            [[f"t{token}" for token in prompt] for prompt in prompts],
            max_length=new_tokens,
            end_token=[],
            beam_size=1,
            include_prompt_in_result=False,  # True would read the prompt token by token
            **more,
        )
        return [result.sequences_ids[0] for result in results]


def load_cublas(packages: Path) -> None:
    """Loads cuBLAS from NVIDIA's wheel, if installed, so that CTranslate2 finds the library by name."""
    for name in CUBLAS:
        library = packages / "nvidia/cublas/lib" / name
        if library.exists():
            ctypes.CDLL(str(library))


def set_norm(spec: Any, tensors: dict[str, Any], name: str) -> None:
    spec.gamma, spec.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]


def set_linear(spec: Any, tensors: dict[str, Any], name: str) -> None:
    """The file has Conv1D weights [in, out], CTranslate2 needs [out, in]."""
    spec.weight, spec.bias = tensors[f"{name}.weight"].T, tensors[f"{name}.bias"]


if __name__ == "__main__":
    serve(CTranslate2())
