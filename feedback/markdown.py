"""Markdown of our own people (guidelines) as HTML that can do nothing but be read."""

from __future__ import annotations

import nh3
from django.utils.safestring import SafeString
from markdown_it import MarkdownIt

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
