"""Formats that are not read, and what to do about each."""

import re
from collections.abc import Collection
from fnmatch import fnmatchcase

# Names at a source's top level (folders end with a slash) -> what they are. The first match is reported.
FOREIGN = (
    (("zero_to_fp32.py", "global_step*/", "mp_rank_*"), "a DeepSpeed checkpoint; run its zero_to_fp32.py on it first"),
    (
        (".metadata", "*.distcp", "pytorch_model_fsdp_*/"),
        "a distributed checkpoint; join it first with "
        "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch`",
    ),
    (("*.gguf",), "GGUF, llama.cpp's format; name the checkpoint it was made from"),
    (("*.onnx", "onnx/"), "an exported graph; name the checkpoint it was made from"),
    (
        ("tf_model.h5", "tf_model-*.h5"),
        "TensorFlow weights; transformers 4 reads them (from_tf=True), save again",
    ),
    (
        ("flax_model.msgpack", "*.msgpack"),
        "Flax weights; transformers 4 reads them (from_flax=True), save again",
    ),
    (("rust_model.ot",), "rust-bert's weights; name the checkpoint they were made from"),
    (
        ("model.ckpt*", "hparams.json"),
        "OpenAI's own TensorFlow checkpoint; its converted weights are the Hub's openai-community/gpt2",
    ),
    (
        ("gpt2_[0-9]*M*.bin", "model_[0-9]*.bin"),
        "a checkpoint of llm.c; convert it with llm.c's dev/eval/export_hf.py",
    ),
    (("*.npz",), "arrays of NumPy or MLX; save the model with save_pretrained"),
    (("*.safetensors",), "not the name that is read; if it holds the whole model, rename it to model.safetensors"),
    (
        ("*.pt", "*.pth", "*.ckpt", "*.bin"),
        "a pickle, not under the name that is read; if it holds the model, rename it to pytorch_model.bin",
    ),
)

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
MERGE = "merge it into its base model first (merge_and_unload in PEFT, then save_pretrained)"
BESIDE_WEIGHTS = {"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth"}
TRAINERS_FOLDER = re.compile(r"checkpoint-(\d+)/")


def adapter_among(names: Collection[str]) -> str:
    """The message for an adapter's files; empty if there are none.

    Applies beside whole weights too: transformers would apply the adapter, and it may be merged already.
    """
    there = [name for name in ADAPTER if name in names]
    return f"it has {there[0]}: a LoRA adapter; {MERGE}, or remove it if it is merged already" if there else ""


def foreign_among(names: Collection[str]) -> str:
    """What a source without readable weights has instead, and what to do.

    >>> foreign_among({"config.json", "gpt2.f16.gguf"})
    "it has gpt2.f16.gguf: GGUF, llama.cpp's format; name the checkpoint it was made from"
    >>> foreign_among({"checkpoint-500/", "checkpoint-1500/"})
    "it is a trainer's output, its newest checkpoint is checkpoint-1500; name that folder"
    """
    steps = [int(match[1]) for name in names if (match := TRAINERS_FOLDER.fullmatch(name))]
    if steps:
        return f"it is a trainer's output, its newest checkpoint is checkpoint-{max(steps)}; name that folder"
    names = {name for name in names if name not in BESIDE_WEIGHTS}
    for patterns, what in FOREIGN:
        for name in sorted(names):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return f"it has {name.rstrip('/')}: {what}"
    if {"snapshots/", "blobs/"} <= {*names}:
        return "it is a repository in the Hub's cache; name the repository, or a commit's folder in its snapshots"
    return "is it a checkpoint's folder?"
