import pytest
from gpt2_runtime.errors import BundleError
from gpt2_runtime.folder.json_object import JsonObject


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a" 1}', r"x\.json is not JSON at line 1, column 6: "),
        (b'{\n  "a": }', r"is not JSON at line 2, column 8"),
        (b"", "is not JSON at line 1, column 1"),
        (b'{"a": "\xff"}', "is not UTF-8 at byte 7"),
        (b"[1, 2]", r"holds \[1, 2\], not a JSON object"),
        (b"[" * 100_000, "is not readable JSON: RecursionError"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not readable JSON: ValueError"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b', "a": 1}', 'has "a" twice; the folder is damaged'),
        (b'{"b": {"a": 1, "c": 2, "a": 1}}', 'has "a" twice'),
        (rb'{"a": "\ud83d"}', r"has '\\ud83d', half a surrogate pair; the folder is damaged"),
        (rb'{"\uDE00": 1}', r"half a surrogate pair"),
    ],
)
def test_what_is_not_a_json_object_is_refused_with_its_place(tmp_path, data, message):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message) as refusal:
        JsonObject.read(path)
    assert "\n" not in str(refusal.value)


def test_a_whole_pair_is_a_character(tmp_path):
    (tmp_path / "x.json").write_bytes(rb'{"\ud83d\ude00": "\ud83d\ude00"}')
    assert JsonObject.read(tmp_path / "x.json").fields == {"😀": "😀"}


def test_a_file_has_a_limited_number_of_bytes(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1}')
    assert JsonObject.read(path, 8).integer("a") == 1
    with pytest.raises(BundleError, match=r"x\.json has 8 bytes, must have at most 7; copy or export the folder again"):
        JsonObject.read(path, 7)


def test_an_absent_file_is_refused_by_name(tmp_path):
    with pytest.raises(BundleError, match=r"gone\.json does not exist; copy or export the folder again"):
        JsonObject.read(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda d: d.text("number"), "number is 3, not text"),
        (lambda d: d.integer("text"), 'text is "x", not an integer of at least 0'),
        (lambda d: d.integer("number", minimum=4), "number is 3, not an integer of at least 4"),
        (lambda d: d.integer("number", maximum=2), "number is 3, not an integer of at most 2"),
        (lambda d: d.integer("flag"), "flag is true, not an integer"),
        (lambda d: d.integer("gone"), "gone is absent, not an integer"),
        (lambda d: d.flag("number", default=True), "number is 3, not true or false"),
        (lambda d: d.items("number"), "number is 3, not a list"),
        (lambda d: d.object("number"), "number is 3, not an object"),
        (lambda d: d.object("inner").text("a"), r"here: inner: a is \[0, 1, .*\.\.\., not text"),
    ],
)
def test_a_field_of_another_type_is_refused_with_its_value(ask, message):
    fields = {"number": 3, "text": "x", "flag": True, "inner": {"a": list(range(99))}}
    with pytest.raises(BundleError, match=message):
        ask(JsonObject(where="here", fields=fields))
