"""Every token is visible, and no token affects the page around it."""

import pytest
from gpt2_runtime import Tokenizer
from gpt2_runtime.explain.visible_tokens import SPACES, glyphs
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"the", [("text", "the")]),
        (b"  the", [("space", "··"), ("text", "the")]),
        (b"\n\t", [("space", "↵⇥")]),
        (b"\x00a", [("code", "U+0000"), ("text", "a")]),
        ("\u200b\u2028".encode(), [("code", "U+200B"), ("code", "U+2028")]),
        ("\u00a0".encode(), [("code", "U+00A0")]),
        ("\u0301".encode(), [("text", "◌\u0301")]),
        ("e\u0301".encode(), [("text", "e\u0301")]),
        ("🙂".encode()[:3], [("byte", "F0"), ("byte", "9F"), ("byte", "99")]),
        (b"\x82 </script>", [("byte", "82"), ("space", "·"), ("text", "</script>")]),
        (b"", []),
    ],
)
def test_the_visible_form(token, expected):
    assert glyphs(token) == expected


@given(st.binary(max_size=12))
def test_no_byte_is_lost_or_hidden(token):
    back = {sign: character for character, sign in SPACES.items()}
    read = b""
    for kind, shown in glyphs(token):
        assert shown.isprintable()
        if kind == "byte":
            read += bytes.fromhex(shown)
        elif kind == "code":
            read += chr(int(shown[2:], 16)).encode()
        elif kind == "space":
            read += "".join(back[sign] for sign in shown).encode()
        else:
            read += shown.removeprefix("◌").encode() if not read and "◌".encode() != token[:3] else shown.encode()
    assert read == token


def test_every_token_of_a_folder_can_be_shown(folder):
    tokenizer = Tokenizer.open(folder)
    assert all(glyphs(tokenizer.token_bytes(token)) for token in tokenizer.vocabulary.token_bytes)
