"""transformers: GPT2LMHeadModel.generate on the checkpoint itself, float32, torch's scaled_dot_product_attention."""

from pathlib import Path

from protocol import Generated, serve

from adapters import streaming


class Transformers:
    def convert(self, checkpoint: str, target: str, precision: str) -> None:
        Path(target).symlink_to(checkpoint)

    def load(self, model: str, precision: str, threads: int) -> None:
        import torch
        from transformers import GPT2LMHeadModel

        torch.set_num_threads(threads)
        self.model = GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa").eval()

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Generated:
        return streaming.generate(self.model, prompts, new_tokens)


if __name__ == "__main__":
    serve(Transformers())
