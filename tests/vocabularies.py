"""A byte-level vocabulary like GPT-2's, with a few hundred tokens, trained on the spot."""

from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

# Letters of one to four bytes, so that characters of two tokens are common.
LETTERS = (
    "To be, or not to be: that is the question. 1603 Ça va, naïve Zoë? Привет, мир! 你好，世界。 ありがとう "
    "🙂\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}🇫🇷 "
)
END_OF_TEXT = "<|endoftext|>"


def write(folder: Path) -> int:
    """Writes vocab.json and merges.txt; returns the number of tokens."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([LETTERS] * 5, vocab_size=290, special_tokens=[END_OF_TEXT], show_progress=False)
    tokenizer.save_model(str(folder))
    return tokenizer.get_vocab_size()
