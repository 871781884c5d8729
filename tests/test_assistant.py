"""Text of answers as it comes, and prompts of a file."""

from __future__ import annotations

from pathlib import Path

from veneer.assistant import TextStream, lines_of


def test_streamed_text_adds_up_and_holds_back_half_a_character(tiny_model: Path) -> None:
    from veneer.io.tokenizer import from_directory

    tokenizer = from_directory(tiny_model)
    for text in ("parcel", "naïve 🎉 文字", "e\u0301 x", "🎉", ""):
        pieces: list[str] = []
        stream = TextStream(tokenizer, pieces.append)
        for token in tokenizer.encode(text):
            stream.push(token)
        assert stream.finish() == text
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    broken = TextStream(tokenizer, pieces.append)
    broken.push(tokenizer.encode("🎉")[0])
    assert broken.finish() == "\ufffd"
    assert pieces[-1] == "\ufffd"


def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes("\ufeffa\r\nb b\u2028c\n\n \n d".encode())
    assert list(lines_of(tmp_path / "q")) == ["a", "b b\u2028c", " d"]
