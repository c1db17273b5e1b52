"""Texts that try to be more than text on the judging page, in a real Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from feedback.models import Preference, Project, User
from tests.browser.judging import open_judge, wait_for_another
from tests.factories import make_completion, make_prompt, put_up

pytestmark = pytest.mark.browser
PAYLOADS = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "<svg onload=window.pwned=1>",
    "<svg><script>window.pwned=1</script></svg>",
    "<svg><animate onbegin=window.pwned=1 attributeName=x dur=1s>",
    "<a href='javascript:window.pwned=1' autofocus onfocus=window.pwned=1>x</a>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<object data='https://evil.example/'></object><embed src='https://evil.example/'>",
    "<div hx-get='https://evil.example/' hx-trigger='load' hx-on:load='window.pwned=1'>x</div>",
    "<div data-hx-post='/p/desk/judge/undo/' data-hx-trigger='load'>x</div>",
    "<form action='https://evil.example/'><button>Confirm</button></form>",
    "</textarea></div></article><style>*{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'><base href='https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/x.css'><style>@import 'https://evil.example/'</style>",
    "<input autofocus onfocus=window.pwned=1><select onfocus=window.pwned=1 autofocus>",
    "<video><source onerror=window.pwned=1></video><audio src=x onerror=window.pwned=1>",
    "<details open ontoggle=window.pwned=1>x</details><marquee onstart=window.pwned=1>x</marquee>",
    "<math><mtext><img src=x onerror=window.pwned=1></mtext></math>",
    "<template><script>window.pwned=1</script></template><noscript><img src=x></noscript>",
    "![x](https://evil.example/x.png) [x](javascript:window.pwned=1) <https://evil.example/>",
    "[x](https://evil.example/ 'onmouseover=window.pwned=1') [y]: https://evil.example/",
    "```html\n<img src=x onerror=window.pwned=1>\n```",
    "```<script>window.pwned=1</script>\nx\n```",
    "| <img src=x onerror=window.pwned=1> | b |\n|---|---|\n| <script>window.pwned=1</script> | d |",
    "<!--><script>window.pwned=1</script>-->",
    "&lt;script&gt;window.pwned=1&lt;/script&gt; &#x3c;img src=x onerror=window.pwned=1&#x3e;",
    "{{ request.user }}{% debug %}",
    "<span class='hidden-char'>RLO</span><mark>x</mark><kbd data-kbd=skip>S</kbd>",
    "<button data-confirm data-improve=0 data-key=s name=reason value=broken>Confirm</button>",
    "\u202eevil\u2066\u200b\u00ad\x07",
]
ELEMENTS = (
    "script, img, svg, iframe, object, embed, form, input, select, textarea, style, meta, base, link, video,"
    " audio, details, math, template, a, button, kbd, [onerror], [onload], [onfocus], [hx-get]"
)


def test_sixty_hostile_texts_are_only_text(context: BrowserContext, page: Page, site: str, mei: User) -> None:
    """Plain, formatted, and with differences marked: nothing of them runs, loads, or becomes an element."""
    project = Project.objects.get()
    for number, payload in enumerate(PAYLOADS):
        prompt = make_prompt(project=project, text=f"{number} {payload}")
        texts = [make_completion(prompt=prompt, text=f"{payload} {side}") for side in "xy"]
        put_up(prompt, texts, priority=100 - number)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("dialog", lambda dialog: asked.append(f"dialog {dialog.message}"))
    now = open_judge(page, site)
    for payload in PAYLOADS:
        visible = page.locator(".side.a .text").inner_text()
        wanted = payload if payload.replace("\n", "").isprintable() else "RLO"
        assert wanted in visible
        for view in ("m", "d"):
            page.keyboard.press(view)
            expect(page.locator(f"[data-view={view}]")).to_have_attribute("aria-pressed", "true")
            assert page.locator(f".side .read :is({ELEMENTS})").count() == 0, (view, payload)
            page.keyboard.press(view)
            expect(page.locator(f"[data-view={view}]")).to_have_attribute("aria-pressed", "false")
        page.keyboard.press("4")
        page.keyboard.press("Enter")
        now = wait_for_another(page, now)
        assert page.evaluate("window.pwned") is None
    assert Preference.objects.count() == len(PAYLOADS) == 30  # of two completions each
    page.goto(f"{site}/p/desk/progress/")
    assert page.evaluate("window.pwned") is None
    assert [address for address in asked if not address.startswith(site)] == []
