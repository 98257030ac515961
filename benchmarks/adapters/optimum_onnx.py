"""optimum-onnx: ORTModelForCausalLM on its own export; int8 is its dynamic quantisation for AVX2, per channel."""

from pathlib import Path
from tempfile import TemporaryDirectory

from protocol import Generated, serve

from adapters import streaming


class OptimumOnnx:
    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        from optimum.exporters.onnx import main_export

        if precision == "fp32":
            main_export(checkpoint, target, task="text-generation-with-past", do_validation=False)
            return
        from optimum.onnxruntime import ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        with TemporaryDirectory(dir=Path(target).parent) as exported:
            main_export(checkpoint, exported, task="text-generation-with-past", do_validation=False)
            configuration = AutoQuantizationConfig.avx2(is_static=False, per_channel=True)
            ORTQuantizer.from_pretrained(exported).quantize(configuration, save_dir=target)

    def load(self, model: str, precision: str, threads: int) -> None:
        import torch
        from onnxruntime import SessionOptions
        from optimum.onnxruntime import ORTModelForCausalLM

        torch.set_num_threads(threads)
        options = SessionOptions()
        options.intra_op_num_threads = threads
        self.model = ORTModelForCausalLM.from_pretrained(model, session_options=options)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        return streaming.generate(self.model, prompts, new_tokens)


if __name__ == "__main__":
    serve(OptimumOnnx())
