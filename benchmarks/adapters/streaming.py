"""Generation with transformers' loop, which Optimum uses too: the time of the first token comes from its streamer."""

from time import perf_counter
from typing import Any

from protocol import Generated


class FirstToken:
    """A streamer: `generate` puts the prompt into it, then every step's tokens."""

    def __init__(self) -> None:
        self.steps = -1
        self.first = 0.0

    def put(self, value: object) -> None:
        self.steps += 1
        if self.steps == 1:
            self.first = perf_counter()

    def end(self) -> None:
        pass


def generate(model: Any, prompts: list[list[int]], new_tokens: int, **options: Any) -> Generated:
    """Greedy continuation of equally long prompts by `model.generate`, with further options.

    The timing is also correct on a GPU: the streamer gets tokens on the host, and the result is copied there before it
    is read.
    """
    import torch

    ids = torch.tensor(prompts, device=model.device)
    streamer = FirstToken()
    start = perf_counter()
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            streamer=streamer,
            **options,
        )
    new = made[:, ids.shape[1] :].tolist()
    return Generated(new, (start, streamer.first, perf_counter()))
