"""transformers: GPT2LMHeadModel.generate on the checkpoint itself, torch's scaled_dot_product_attention.

Compiled, it does what `generate` does on a GPU with a static cache: the prompt runs eagerly, the steps after it through
`torch.compile(model, mode="reduce-overhead")`, a CUDA graph. Three settings help it that a program with one shape does
not need. Each shape is compiled separately (by default, the second makes all later ones dynamic). More than torch's
limit of 8 shapes may compile. And a shape keeps its cache: `generate` would make one for each call, as long as the
longest so far, and record the CUDA graph again.
"""

import gc
from pathlib import Path
from typing import Any

from protocol import Generated, serve

from adapters import streaming

SHAPES = 64
ALIGNED = 8  # torch's attention copies a mask of any other length


class Transformers:
    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        Path(target).symlink_to(checkpoint)

    def load(self, model: str, precision: str, threads: int, device: str = "cpu", compiled: bool = False) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
        self.model = GPT2LMHeadModel.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").eval().to(device)
        self.compiled, self.caches = compiled, {}
        if compiled:
            torch._dynamo.config.recompile_limit = SHAPES
            torch._dynamo.config.fail_on_recompile_limit_hit = True

    def release(self) -> None:
        """Releases torch's cached memory; a compiled shape keeps its cache, which its CUDA graph uses."""
        import torch

        gc.collect()
        torch.cuda.empty_cache()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        options = self.static(len(prompts), len(prompts[0]) + new_tokens) if self.compiled else {}
        return streaming.generate(self.model, prompts, new_tokens, **options)

    def static(self, rows: int, length: int) -> dict[str, Any]:
        """The options that make `generate` compile: an empty static cache, the same one for the same shape."""
        import torch
        from transformers import CompileConfig, StaticCache

        if (rows, length) not in self.caches:
            longest = -(-length // ALIGNED) * ALIGNED
            self.caches[rows, length] = StaticCache(config=self.model.config, max_cache_len=longest)
        cache = self.caches[rows, length]
        with torch.inference_mode():  # as `generate` fills it
            cache.reset()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()  # emptied before the clock is read
        settings = CompileConfig(fullgraph=True, dynamic=False)
        settings._compile_all_devices = True  # also on the CPU, for this adapter's tests
        return {"cache": cache, "compile_config": settings}


if __name__ == "__main__":
    serve(Transformers())
