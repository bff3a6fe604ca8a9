"""A user's own code in two halves."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbopilot.base.errors import InvalidInput
from turbopilot.corpus.own_code import read_halves


def test_files_of_a_folder_are_divided(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "sub/c.py", "sub/d.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {name}\n" + "x = 1\n" * 400)
    one, other = read_halves(tmp_path)
    found = [sorted(n for n in "abcd" if f"{n}.py" in half) for half in (one, other)]
    assert sorted(found[0] + found[1]) == list("abcd")
    assert len(found[0]) == len(found[1]) == 2
    assert read_halves(tmp_path) == (one, other)


def test_other_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("a = 1\n" * 500)
    (tmp_path / "b.py").write_text("b = 1\n" * 500)
    (tmp_path / "binary").write_bytes(b"SECRET\0" * 500)
    (tmp_path / "latin").write_bytes(b"SECRET \xe9" * 500)
    (tmp_path / "large.js").write_text("SECRET" * 100_000)
    for folder in (".git", "node_modules"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("SECRET" * 500)
    assert "SECRET" not in "".join(read_halves(tmp_path))


def test_lines_of_a_file_are_divided(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_bytes("".join(f"line {i} é\r\n" for i in range(600)).encode())
    one, other = read_halves(path)
    assert (one + other).encode() == path.read_bytes()
    assert abs(len(one) - len(other)) < 200


def test_missing_and_short_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_halves(tmp_path / "none")
    with pytest.raises(InvalidInput, match="too little text: 0 characters"):
        read_halves(tmp_path)
