"""llama.cpp through llama-cpp-python's C interface: its Llama class accepts only one row, and copies logits."""

from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

from protocol import Generated, serve

from adapters.tensors import read_config, read_tensors

MODEL = "model.gguf"
NAMES = {  # as llama.cpp's own converter maps GPT-2
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


class LlamaCpp:
    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        import llama_cpp

        Path(target).mkdir()
        full = Path(target) / ("full.gguf" if precision != "fp32" else MODEL)
        write_gguf(checkpoint, full)
        if precision == "fp32":
            return
        types = {"int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "int4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = types[precision]
        code = llama_cpp.llama_model_quantize(bytes(full), bytes(Path(target) / MODEL), params)
        full.unlink()
        if code:
            raise RuntimeError(f"llama_model_quantize gave {code}")

    def load(self, model: str, precision: str, threads: int) -> None:
        import llama_cpp

        self.library, self.threads = llama_cpp, threads
        self.contexts: dict[tuple[int, int], Any] = {}
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            bytes(Path(model) / MODEL), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot open {model}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def context(self, rows: int, positions: int) -> Any:
        """Makes a context once per number of rows and keeps it, as a server would; one row may use all positions."""
        positions = self.library.llama_model_n_ctx_train(self.model) if rows == 1 else positions
        if (rows, positions) not in self.contexts:
            params = self.library.llama_context_default_params()
            params.n_ctx, params.n_seq_max = rows * positions, rows
            params.n_threads = params.n_threads_batch = self.threads
            self.contexts[rows, positions] = self.library.llama_init_from_model(self.model, params)
        return self.contexts[rows, positions]

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        import numpy as np

        rows, width = len(prompts), len(prompts[0])
        start = perf_counter()
        context = self.context(rows, width + new_tokens)
        self.library.llama_memory_clear(self.library.llama_get_memory(context), False)
        batch = self.library.llama_batch_init(rows * width, 0, 1)
        steps = [self.step(context, batch, prompts, 0)]
        first = perf_counter()
        for position in range(width, width + new_tokens - 1):
            steps.append(self.step(context, batch, ([token] for token in steps[-1]), position))
        end = perf_counter()
        self.library.llama_batch_free(batch)
        return Generated(np.array(steps).T.tolist(), (start, first, end))

    def step(self, context: Any, batch: Any, rows: Iterable[list[int]], position: int) -> list[int]:
        """Reads new tokens of every row; returns the likeliest next token of each."""
        import numpy as np

        count, last = 0, []
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                batch.token[count] = token
                batch.pos[count] = position + offset
                batch.n_seq_id[count] = 1
                batch.seq_id[count][0] = row
                batch.logits[count] = offset == len(tokens) - 1
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        code = self.library.llama_decode(context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        chosen = []
        for index in last:
            logits = self.library.llama_get_logits_ith(context, index)
            chosen.append(int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax()))
        return chosen


def write_gguf(checkpoint: str, path: Path) -> None:
    """The checkpoint in float32, without a vocabulary."""
    import gguf
    import numpy as np

    config = read_config(checkpoint)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    for name, tensor in read_tensors(checkpoint).items():
        transposed = tensor.T if ".c_" in name and name.endswith(".weight") else tensor  # Conv1D is [in, out]
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(transposed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """
    >>> gguf_name("h.3.attn.c_attn.weight"), gguf_name("wte.weight")
    ('blk.3.attn_qkv.weight', 'token_embd.weight')
    """
    module, _, part = name.rpartition(".")
    if not module.startswith("h."):
        return f"{NAMES[module]}.{part}"
    _, layer, module = module.split(".", 2)
    return f"blk.{layer}.{NAMES[module]}.{part}"


if __name__ == "__main__":
    serve(LlamaCpp())
