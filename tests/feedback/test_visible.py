"""Invisible and reordering characters are shown by name; honest text is left alone."""

from __future__ import annotations

import pytest

from feedback.visible import Piece, pieces


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pay\u200bpal", ["ZERO WIDTH SPACE"]),
        ("\u202edrow\u202c", ["RLO", "PDF"]),
        ("a\u2066b\u2069", ["LRI", "PDI"]),
        ("soft\u00adhyphen", ["SOFT HYPHEN"]),
        ("bell\x07 escape\x1b", ["U+0007", "U+001B"]),
        ("\ufeffstart", ["BOM"]),
        ("tag \U000e0041", ["U+E0041"]),
        ("a\u200db", ["ZWJ"]),
        ("blank \u3164 letter", ["U+3164"]),
        ("line\u2028separator", ["U+2028"]),
        ("\u200d", ["ZWJ"]),
    ],
)
def test_hidden_characters_are_named(text: str, names: list[str]) -> None:
    assert [piece.text for piece in pieces(text) if piece.hidden] == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain, with\ttab\nand newline",
        "naïve café, 東京, שלום, مرحبا",
        "می\u200cخواهم",  # Persian needs its zero-width non-joiner
        "क्\u200dष",
        "👩\u200d🚀 and ❤️",
        "non\u00a0breaking",
    ],
)
def test_honest_text_stays_whole(text: str) -> None:
    assert pieces(text) == ([Piece(text, False)] if text else [])


def test_pieces_put_together_again_are_the_text() -> None:
    assert pieces("a\u202eb") == [Piece("a", False), Piece("RLO", True), Piece("b", False)]
    assert pieces("a\r\nb") == [Piece("a\nb", False)]
    assert [piece.text for piece in pieces("a\rb")] == ["a", "U+000D", "b"]
