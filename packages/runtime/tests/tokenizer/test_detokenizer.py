from gpt2_runtime.tokenizer.detokenizer import Detokenizer
from hypothesis import given
from hypothesis import strategies as st


def pieces(tokens):
    """Decodes a stream of tokens, given as bytes: one piece per token, then the flush."""
    stream = Detokenizer(tokens.__getitem__)
    return [*map(stream.feed, range(len(tokens))), stream.flush()]


@given(st.lists(st.binary(max_size=5)))
def test_the_pieces_joined_are_the_whole_text(tokens):
    assert "".join(pieces(tokens)) == b"".join(tokens).decode(errors="replace")


@given(st.text(), st.data())
def test_valid_text_is_never_cut_within_a_character(text, data):
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)))))
    tokens = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    streamed = pieces(tokens)
    assert "".join(streamed) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in streamed)


def test_a_character_comes_with_its_last_byte():
    assert pieces([b"a\xf0", b"\x9f\x99", b"\x82b"]) == ["a", "", "🙂b", ""]


def test_an_incomplete_character_comes_at_the_flush():
    assert pieces([b"a", b"\xf0\x9f"]) == ["a", "", "\ufffd"]


def test_invalid_bytes_come_at_once():
    assert pieces([b"\xff", b"b"]) == ["\ufffd", "b", ""]
