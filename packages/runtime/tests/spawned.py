"""What another process runs; it must be able to import it."""

from gpt2_runtime import GREEDY


def answer(generator, prompt):
    completion = generator.complete(prompt, max_new_tokens=5, sampling=GREEDY)
    return completion, completion.text
