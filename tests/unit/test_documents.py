"""Documents of others: what is refused, and that refusing costs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helium_edge.documents import MAX_LINE, DocumentError, first_line, parse_json, parse_yaml, read_document


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(b"12345")
    assert read_document(path, 5) == b"12345"
    with pytest.raises(DocumentError, match="5 bytes are too many, the limit is 4"):
        read_document(path, 4)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "endless"])
def test_what_is_no_regular_file_is_neither_read_nor_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "d"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/null", "endless": "/dev/zero"}[kind])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(DocumentError, match="not a regular file"):
        read_document(path, 100)
    assert before == 0 or len(os.listdir("/proc/self/fd")) == before


def test_links_may_be_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_document(tmp_path / "link", 1) == b"x"
    with pytest.raises(OSError, match="symbolic links"):
        read_document(tmp_path / "link", 1, follow_links=False)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff", b'{"a": 1, "a": 1}',
     b'{"b": {"a": 1, "a": 2}}', b"[" * 100_000, b"\xef\xbb\xbf1"],
    ids=["empty", "cut", "utf8", "twice", "twice below", "deep", "bom"],
)  # fmt: skip
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(DocumentError, match=r"^not readable as JSON: [^\n]+$"):
        parse_json(text)


@pytest.mark.parametrize("digits", ["1e400", "-1E+309", "1" + "0" * 309, "-" + "9" * 5000, "1.5e999999"])
def test_a_number_beyond_float64_is_named(digits: str) -> None:
    with pytest.raises(DocumentError, match=r"a\[1\]\.b = .* is beyond float64$"):
        parse_json(b'{"e300": 1, "a": [0, {"b": %s}]}' % digits.encode())
    assert parse_json(b'{"a": [1e308, %s, 1e-400]}' % (b"1" + b"0" * 308)) == {"a": [1e308, 10**308, 0.0]}


@pytest.mark.parametrize("text", [r'{"\ud800": 1}', r'["\uDC00"]', r'["\ude00\ud83d"]', r'{"a": ["x\udfffy"]}'])
def test_half_a_surrogate_pair_is_no_text(text: str) -> None:
    with pytest.raises(DocumentError, match="not valid Unicode"):
        parse_json(text.encode())
    assert parse_json(rb'["\ud83d\ude00", "\\ud800"]') == ["\U0001f600", "\\ud800"]


def test_constants_are_json_only_where_they_may_be() -> None:
    assert parse_json(b"[Infinity]") == [float("inf")]
    with pytest.raises(DocumentError, match="NaN is no JSON number"):
        parse_json(b"[NaN]", constants=False)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x\n",
        "a: &a {k: 1}\nb: {<<: [*a, *a]}\n",
        "a: 1\na: 2\n",
        "!!python/object/apply:os.getcwd []\n",
        "!!python/name:os.system\n",
        "? [a]\n: 1\n",
        "a: 2026-13-45\n",
        "a: !!int x\n",
        "a: !!timestamp x\n",
        "a: !!bool x\n",
        "a: !!float ''\n",
        "=: 1\n---\nb: 1\n",
        "[" * 700,
        "a: " + "9" * 5000,
        "a: \0",
    ],
)
def test_what_is_no_plain_yaml(text: str) -> None:
    with pytest.raises(DocumentError, match=r"^not valid YAML[^\n]*: [^\n]+$"):
        parse_yaml(text)


def test_many_keys_are_read_in_time_that_grows_with_their_number() -> None:
    """The check for duplicates once took the square of it."""
    assert len(parse_yaml("".join(f"k{i}: 1\n" for i in range(5000)))) == 5000


def test_a_foreign_message_is_cut_to_a_line_that_can_be_read() -> None:
    """tokenizers quotes a wrong value whole, and says at the end where it stands."""
    assert first_line(ValueError("wrong\nmore")) == "wrong"
    assert first_line(ValueError()) == "ValueError"
    long = first_line(ValueError(f"invalid type: {'x' * 5000} at column 7"))
    assert len(long) <= MAX_LINE + 5
    assert long.startswith("invalid type: xxx")
    assert long.endswith("xxx at column 7")


def test_a_foreign_message_can_be_printed() -> None:
    """safetensors quotes the name of a tensor as it stands in the file."""
    assert first_line(ValueError("tensor `\ud7a4\x1b[2J\udc80 é`")) == r"tensor `\ud7a4\x1b[2J\udc80 é`"
