"""Markdown as HTML that can do nothing but be read: of our own people (guidelines), and of completions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import nh3
from django.utils.safestring import SafeString
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES

from feedback.visible import pieces

TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "ul", "ol", "li", "blockquote", "strong", "em", "del"),
    *("code", "pre", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
"""No picture, style, id, class, no attribute but a link's target: nothing loads, runs or dresses up."""
READER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def rendered(text: str) -> SafeString:
    """HTML of the text. The allow-list comes last, so nothing that the reader lets through gets past it."""
    clean = nh3.clean(
        READER.render(text),
        tags=TAGS,
        attributes={"*": set(), "a": {"href"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return SafeString(clean)


# --- completions: written by a model, read by people who must not be led away ------------------------

LONGEST_TEXT = 100_000
"""A longer text is not formatted: reading it takes the server too long."""
LANGUAGES = {
    *(
        "bash",
        "c",
        "cpp",
        "csharp",
        "css",
        "diff",
        "go",
        "html",
        "java",
        "javascript",
        "js",
        "json",
        "kotlin",
    ),
    *("php", "python", "py", "r", "ruby", "rust", "sh", "sql", "swift", "toml", "ts", "typescript", "xml"),
    *("yaml", "yml"),
}
LONGEST_CODE = 20_000
"""Characters of a code block that are coloured; a longer one is shown plain."""
OPEN, CLOSE = "\ue000", "\ue001"
"""Stand around the name of a hidden character until it becomes an element; no text holds them: see below."""


def _code(code: str, language: str, _attributes: str) -> str:
    if language.lower() not in LANGUAGES or len(code) > LONGEST_CODE:
        return escape(code)
    coloured: str = highlight(code, get_lexer_by_name(language, stripnl=False), HtmlFormatter(nowrap=True))
    return coloured


def _link_end(
    _self: object, tokens: Sequence[Token], index: int, _options: object, _environment: object
) -> str:
    """A link is its words and its address to read: nothing to follow, nothing that hides where it leads."""
    depth = 0
    for token in reversed(tokens[:index]):
        depth += {"link_close": 1, "link_open": -1}.get(token.type, 0)
        if depth < 0:
            words = "".join(inner.content for inner in tokens[tokens.index(token) + 1 : index])
            address = str(token.attrGet("href") or "")
            return "" if address == words else f" ({escape(address)})"
    return ""


def _nothing(*_arguments: Any) -> str:
    return ""


COMPLETION_READER = MarkdownIt("commonmark", {"html": False, "breaks": True, "highlight": _code})
COMPLETION_READER.enable(["table", "strikethrough"]).disable("image")
COMPLETION_READER.add_render_rule("link_open", _nothing)
COMPLETION_READER.add_render_rule("link_close", _link_end)
COLOURS = {name for name in STANDARD_TYPES.values() if name}
COMPLETION_TAGS = (TAGS - {"a"}) | {"span"}


def completion_html(text: str) -> SafeString:
    """A completion with its formatting and coloured code. Invisible characters are named as in plain text."""
    named = "".join(OPEN + piece.text + CLOSE if piece.hidden else piece.text for piece in pieces(text))
    clean = nh3.clean(
        COMPLETION_READER.render(named),
        tags=COMPLETION_TAGS,
        attributes={"*": set()},
        allowed_classes={"span": COLOURS},
    )
    found = re.sub(f"{OPEN}([^{CLOSE}]*){CLOSE}", r'<span class="hidden-char">\1</span>', clean)
    return SafeString(found)
