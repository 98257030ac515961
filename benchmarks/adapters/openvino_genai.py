"""OpenVINO GenAI: LLMPipeline on optimum-intel's export, its weights compressed by nncf; prefix cache off."""

from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any

from protocol import Generated, serve


class OpenVinoGenAi:
    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        import nncf
        import openvino
        from optimum.exporters.openvino import main_export

        exported = Path(target).with_name(f"{Path(target).name}.fp32")
        main_export(checkpoint, exported, task="text-generation-with-past", stateful=True)
        if precision == "fp32":
            exported.rename(target)
            return
        # The defaults of `optimum-cli export openvino --weight-format`; in int4 embedding and head stay 8-bit.
        modes: dict[str, dict[str, Any]] = {
            "int8": {"mode": nncf.CompressWeightsMode.INT8_ASYM},
            "int4": {"mode": nncf.CompressWeightsMode.INT4_ASYM, "group_size": 128, "ratio": 1.0},
        }
        model = openvino.Core().read_model(exported / "openvino_model.xml")
        openvino.save_model(nncf.compress_weights(model, **modes[precision]), Path(target) / "openvino_model.xml")
        for file in exported.glob("*.json"):
            file.rename(Path(target) / file.name)
        del model  # its weights are mapped from that file
        rmtree(exported)

    def load(self, model: str, precision: str, threads: int) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # a repeated prompt must be read again
        # The default on a CPU with bfloat16 would be bfloat16.
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        if precision == "fp32":
            settings["KV_CACHE_PRECISION"] = "f32"  # its default of 8 bits gives different tokens
        self.pipeline = openvino_genai.LLMPipeline(model, "CPU", scheduler_config=scheduler, **settings)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        import numpy as np
        import openvino
        from openvino_genai import GenerationConfig, TokenizedInputs

        chosen = GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        start = perf_counter()
        ids = np.array(prompts, dtype=np.int64)
        inputs = TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        result = self.pipeline.generate(inputs, chosen)
        end = perf_counter()
        # A streamer supports only one row; its own timing covers all.
        first = start + result.perf_metrics.get_ttft().mean / 1000
        return Generated([list(row) for row in result.tokens], (start, first, end))


if __name__ == "__main__":
    serve(OpenVinoGenAi())
