"""The judging screen in a real Chromium: by keyboard alone, twice at once, without network or scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from feedback.models import Assignment, Comparison, Membership, Preference, Project, User
from tests.browser import web
from tests.browser.visit import AXE, violations
from tests.factories import make_comparison, make_completion, make_member, make_project, make_prompt, put_up

pytestmark = pytest.mark.browser
SignIn = Callable[[User], None]


@pytest.fixture
def mei(site: str, sign_in: SignIn) -> User:
    """An annotator of a fresh project with 25 comparisons, signed in."""
    project = make_project(slug="desk")
    for number in range(25):
        make_comparison(project=project, priority=-number, texts=(f"left {number}", f"right {number}"))
    user = make_member(project=project)
    sign_in(user)
    return user


@pytest.fixture
def rough(browser: Browser, site: str, mei: User) -> Iterator[BrowserContext]:
    """A browser of hers whose network fails: its console has errors by right."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(15_000)
    web.sign_in(context, site, mei)
    yield context
    context.close()


def open_judge(page: Page, site: str) -> str:
    page.goto(f"{site}/p/desk/judge/")
    return shown(page)


def shown(page: Page) -> str:
    """The assignment on the screen."""
    return page.locator("#comparison").get_attribute("data-assignment") or ""


def wait_for_another(page: Page, before: str) -> str:
    """What is on the screen now, once the judgement of `before` has been saved."""
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", before)
    expect(page.locator("body[data-judge-going]")).to_have_count(0)
    # What could not be saved has come back, and goes when it is.
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", before)
    return shown(page)


def test_twenty_judgements_by_keyboard_alone(page: Page, site: str, mei: User) -> None:
    now = open_judge(page, site)
    said = []
    for number in range(20):
        step, floor = number % 7 + 1, "gn"[number % 2]
        page.keyboard.press(str(step))
        page.keyboard.press(floor)
        page.keyboard.press("Enter")
        said.append((int(now), step - 4, {"g": "both", "n": "neither"}[floor]))
        now = wait_for_another(page, now)
    found = [
        (
            row.assignment_id,
            row.strength if row.shown_order == [0, 1] else -(row.strength or 0),
            row.acceptability,
        )
        for row in Preference.objects.order_by("pk")
    ]
    assert found == said
    assert all(row.active_ms is not None for row in Preference.objects.all())
    expect(page.locator("#comparison_title")).to_be_focused()
    expect(page.locator("#judge_announcer")).to_have_text("Next comparison.")
    expect(page.locator("#comparison .head")).to_contain_text("20 today")


def test_skip_note_arrows_undo_and_help_by_keyboard(page: Page, site: str, mei: User) -> None:
    first = open_judge(page, site)
    page.keyboard.press("?")
    expect(page.locator("#judge_keys")).to_be_visible()
    page.keyboard.press("3")  # closed keys do nothing behind the dialog
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.keyboard.press("3")
    second = wait_for_another(page, first)
    assert Assignment.objects.get(pk=first).skip_reason == "language"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    page.keyboard.type("7 words, and the letters s and u")
    page.keyboard.press("Control+Enter")
    third = wait_for_another(page, second)
    preference = Preference.objects.get()
    assert preference.comment == "7 words, and the letters s and u"
    assert abs(preference.strength or 0) == 2
    page.keyboard.press("u")
    assert wait_for_another(page, third) == second
    expect(page.locator("input[name=strength]:checked")).to_have_value("2")
    expect(page.locator("#judge_announcer")).to_contain_text("Taken back")
    page.keyboard.press("u")
    assert wait_for_another(page, second) == first


def test_confirm_without_a_choice_says_so(page: Page, site: str, mei: User) -> None:
    before = open_judge(page, site)
    page.keyboard.press("Enter")
    expect(page.locator(".scale legend")).to_contain_text("Choose one of the seven steps")
    page.locator("[data-confirm]").click()
    assert shown(page) == before and not Preference.objects.exists()


def test_a_note_and_its_flags_are_saved_shown_and_brought_back(page: Page, site: str, mei: User) -> None:
    first = open_judge(page, site)
    page.keyboard.press("6")
    page.keyboard.press("c")
    page.keyboard.type("both miss the date")
    page.get_by_label("Personal data").check()
    page.get_by_label("Off topic").check()
    page.locator("[data-confirm]").click()
    wait_for_another(page, first)
    preference = Preference.objects.get()
    assert (preference.comment, preference.flags) == ("both miss the date", ["private", "off_topic"])
    page.get_by_role("link", name="today").click()
    row = page.locator(".judge-table tbody tr")
    expect(row).to_have_count(1)
    for words in ("both miss the date", "Personal data", "Off topic"):
        expect(row).to_contain_text(words)
    row.get_by_role("button", name="Change").click()
    assert shown(page) == first
    expect(page.locator("[data-note]")).to_have_attribute("data-filled", "")
    page.keyboard.press("c")
    expect(page.locator("textarea[name=comment]")).to_have_value("both miss the date")
    expect(page.get_by_label("Personal data")).to_be_checked()
    expect(page.get_by_label("Off topic")).to_be_checked()
    expect(page.get_by_label("Wrong language")).not_to_be_checked()


def test_single_keys_can_be_switched_off(page: Page, site: str, mei: User) -> None:
    open_judge(page, site)
    page.keyboard.press("?")
    page.locator("#judge_keys_on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.locator("input[name=strength]:checked")).to_have_count(0)


def test_a_double_click_is_one_judgement(page: Page, site: str, mei: User) -> None:
    before = open_judge(page, site)
    page.keyboard.press("2")
    page.locator("[data-confirm]").dblclick()
    wait_for_another(page, before)
    page.wait_for_load_state("networkidle")
    assert Preference.objects.count() == 1


def test_two_tabs_are_one_judgement(context: BrowserContext, site: str, mei: User) -> None:
    one, two = context.new_page(), context.new_page()
    first = open_judge(one, site)
    assert open_judge(two, site) == first
    one.keyboard.press("1")
    one.keyboard.press("Enter")
    wait_for_another(one, first)
    two.keyboard.press("7")
    two.keyboard.press("Enter")
    wait_for_another(two, first)
    expect(two.locator("#comparison")).to_contain_text("already, in another tab")
    preference = Preference.objects.get()
    assert preference.strength == (-3 if preference.shown_order == [0, 1] else 3)
    assert shown(one) == shown(two)


# --- when the network fails -------------------------------------------------------------------------


def test_offline_is_said_and_mended(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    page.keyboard.press("6")
    rough.set_offline(True)
    page.keyboard.press("Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    page.keyboard.press("1")  # what was sent must stay what was sent
    expect(page.locator("input[name=strength]:checked")).to_have_value("2")
    assert not Preference.objects.exists()
    rough.set_offline(False)
    wait_for_another(page, before)
    assert Preference.objects.count() == 1
    assert page.evaluate("Object.keys(localStorage)") == []


def test_a_lost_reply_is_resent_under_the_same_key(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    bodies = []

    def lose_the_reply(route: Route) -> None:
        bodies.append(route.request.post_data)
        if len(bodies) > 1:
            return route.continue_()
        route.fetch()  # the server has it now
        route.abort()

    page.route("**/p/desk/judge/", lose_the_reply)
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    wait_for_another(page, before)
    assert len(bodies) == 2
    assert Preference.objects.count() == 1


def test_a_closed_page_sends_what_it_kept_when_opened_again(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    rough.set_offline(True)
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    page.close()
    rough.set_offline(False)
    again = rough.new_page()
    open_judge(again, site)
    wait_for_another(again, before)
    expect(again.locator("#judge_announcer")).to_contain_text("has been saved now")
    assert Preference.objects.get().assignment_id == int(before)


def test_signed_out_keeps_the_answer_until_signed_in(rough: BrowserContext, site: str, mei: User) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    rough.clear_cookies()
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.locator("[data-saving]")).to_contain_text("signed out")
    expect(page.locator("#id_password")).to_have_count(0)
    web.sign_in(rough, site, mei)
    rough.new_page().goto(f"{site}/p/desk/progress/")  # sets the new token, as signing in by the form does
    page.locator("[data-try-now]").click()
    wait_for_another(page, before)
    assert Preference.objects.count() == 1


def kept_offline(rough: BrowserContext, site: str) -> str:
    """A judgement with a comment, given without a network in a page that was closed; its assignment."""
    page = rough.new_page()
    before = open_judge(page, site)
    page.keyboard.press("7")
    page.keyboard.press("c")
    page.keyboard.type("an hour of <b>thought</b>")
    rough.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    page.close()
    rough.set_offline(False)
    return before


def stored(page: Page) -> list[str]:
    """What this browser keeps: drafts and unsent judgements."""
    return sorted(name.split(".")[1] for name in page.evaluate("Object.keys(localStorage)"))


def test_a_kept_judgement_that_a_closed_project_refuses_is_told_and_kept(
    rough: BrowserContext, site: str, mei: User
) -> None:
    before = kept_offline(rough, site)
    other = make_project(slug="other")
    make_comparison(project=other)
    make_member(project=other, user=mei)
    Project.objects.filter(slug="desk").update(archived_at=timezone.now())
    page = rough.new_page()
    page.goto(f"{site}/p/other/judge/")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("Its project is closed")
    notice.get_by_text("What you typed, to copy").click()
    expect(notice.locator(".read")).to_have_text("an hour of <b>thought</b>")
    assert violations(page, AXE.read_text(), None) == []
    notice.get_by_role("button", name="Close").click()
    expect(notice).to_have_count(0)
    assert stored(page) == ["draft", "unsent"] and not Preference.objects.exists()
    with page.expect_response("**/p/desk/judge/"):
        page.reload()  # told once
    page.wait_for_timeout(200)
    expect(page.get_by_role("alert")).to_have_count(0)
    Project.objects.filter(slug="desk").update(archived_at=None)
    with page.expect_response("**/p/desk/judge/"):
        page.reload()
    expect(page.locator("#judge_announcer")).to_contain_text("has been saved now")
    preference = Preference.objects.get()
    assert (preference.assignment_id, preference.comment) == (int(before), "an hour of <b>thought</b>")
    assert stored(page) == []


def test_a_kept_judgement_of_somebody_who_was_removed_is_told_and_kept(
    rough: BrowserContext, site: str, mei: User
) -> None:
    kept_offline(rough, site)
    other = make_project(slug="other")
    make_member(project=other, user=mei)
    Membership.objects.filter(project__slug="desk", user=mei).delete()
    page = rough.new_page()
    page.goto(f"{site}/p/other/judge/")
    expect(page.get_by_role("alert")).to_contain_text("no longer a member")
    assert stored(page) == ["draft", "unsent"] and not Preference.objects.exists()


def test_a_kept_judgement_of_what_was_judged_elsewhere_is_told_and_its_draft_kept(
    rough: BrowserContext, site: str, mei: User
) -> None:
    """The same key with another answer: the first one stands, and the person reads so."""
    kept_offline(rough, site)
    page = rough.new_page()
    page.route(
        "**/p/desk/judge/",
        lambda route: route.abort() if route.request.method == "POST" else route.continue_(),
    )
    open_judge(page, site)
    name = page.evaluate("Object.keys(localStorage).find((name) => name.includes('.unsent.'))")
    unsent = json.loads(page.evaluate("(name) => localStorage.getItem(name)", name))
    said = dict(parse_qsl(unsent["body"]))
    page.unroute("**/p/desk/judge/")
    first = page.request.post(
        f"{site}/p/desk/judge/",
        form=said
        | {
            "strength": "-3",
            "csrfmiddlewaretoken": page.locator("[name=csrfmiddlewaretoken]").first.input_value(),
        },
        headers={"Referer": site},
    )
    assert first.ok and Preference.objects.count() == 1
    open_judge(page, site)
    expect(page.get_by_role("alert").first).to_contain_text("Sent before with another judgement")
    assert Preference.objects.count() == 1 and "unsent" not in stored(page)


def test_a_project_that_closes_meanwhile_leaves_the_judgement_on_the_screen(
    rough: BrowserContext, site: str, mei: User
) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    Project.objects.update(archived_at=timezone.now())
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("kept")
    page.keyboard.press("Control+Enter")
    said = page.locator("[data-saving]")
    expect(said).to_contain_text("Not saved: this project is closed.")
    expect(said).to_have_attribute("role", "status")
    assert shown(page) == before
    expect(page.locator("input[name=strength]:checked")).to_have_value("-2")
    page.wait_for_timeout(1500)  # nothing goes on trying
    expect(said).to_contain_text("closed")
    expect(said.locator("button")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Project closed")
    assert violations(page, AXE.read_text(), None) == []
    Project.objects.update(archived_at=None)
    open_judge(page, site)
    expect(page.locator("#judge_announcer")).to_contain_text("has been saved now")
    assert Preference.objects.get().comment == "kept"


def test_a_page_that_waits_in_a_project_that_closes_says_so(
    rough: BrowserContext, site: str, mei: User
) -> None:
    Comparison.objects.all().delete()
    page = rough.new_page()
    open_judge(page, site)
    expect(page.locator(".empty")).to_be_visible()
    Project.objects.update(archived_at=timezone.now())
    page.evaluate("htmx.ajax('GET', location.pathname, {target: '#comparison'})")
    expect(page.get_by_role("heading", level=1)).to_have_text("Project closed")


def test_what_is_typed_survives_a_reload(page: Page, site: str, mei: User) -> None:
    before = open_judge(page, site)
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("half a thought")
    page.goto(f"{site}/p/desk/progress/")
    assert open_judge(page, site) == before
    expect(page.locator("textarea[name=comment]")).to_have_value("half a thought")
    expect(page.locator("input[name=strength]:checked")).to_have_value("-2")


# --- what may not happen, and small screens ---------------------------------------------------------

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


def test_a_phone_judges_by_touch(browser: Browser, site: str, mei: User) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    watched = web.watch(context)
    web.sign_in(context, site, mei)
    page = context.new_page()
    before = open_judge(page, site)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    dock = page.locator(".dock").bounding_box()
    assert dock is not None and dock["height"] < 640 * 0.4
    for target in page.locator(
        ".dock label.btn, .scale label, .dock button[data-confirm], .dock summary"
    ).all():
        box = target.bounding_box()
        assert box is not None and box["height"] >= 40 and box["width"] >= 40
    page.locator(".scale label").nth(5).tap()
    page.locator(".floor label").nth(1).tap()
    page.locator("[data-confirm]").tap()
    wait_for_another(page, before)
    assert Preference.objects.get().acceptability == "one"
    context.close()
    assert not watched.problems()


def test_judging_works_without_scripts(browser: Browser, site: str, mei: User) -> None:
    context = browser.new_context(java_script_enabled=False)
    web.sign_in(context, site, mei)
    page = context.new_page()
    first = open_judge(page, site)
    page.locator(".scale label").nth(0).click()
    page.locator("[data-confirm]").click()
    second = shown(page)
    assert second != first and Preference.objects.count() == 1
    page.locator("[data-skip] summary").click()
    page.get_by_role("button", name="It is broken").click()
    assert shown(page) not in (first, second)
    assert Assignment.objects.get(pk=second).skip_reason == "broken"
    page.get_by_role("button", name="Undo").click()
    assert shown(page) == second
    page.get_by_role("link", name="today").click()
    page.get_by_role("button", name="Change").click()
    assert shown(page) == first
    context.close()


# --- the next one, kept ready -----------------------------------------------------------------------


def test_the_next_one_is_shown_before_the_last_is_saved(page: Page, site: str, mei: User) -> None:
    held: list[Route] = []
    page.route(
        "**/p/desk/judge/",
        lambda route: held.append(route) if route.request.method == "POST" else route.continue_(),
    )
    with page.expect_response("**/judge/ahead/"):
        first = open_judge(page, site)
    page.wait_for_timeout(100)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", first)
    second = shown(page)
    assert len(held) == 1 and not Preference.objects.exists()
    page.keyboard.press("6")
    page.keyboard.press("Enter")  # waits for the one before
    assert shown(page) == second
    assert len(held) == 1
    held[0].continue_()
    expect(page.locator("body[data-judge-going]")).to_have_count(0)
    for _tick in range(50):
        page.wait_for_timeout(100)  # lets the route's handler run
        if len(held) == 2:
            break
    held[1].continue_()
    wait_for_another(page, second)
    said = [(str(row.assignment_id), abs(row.strength or 0)) for row in Preference.objects.order_by("pk")]
    assert said == [(first, 2), (second, 2)]
    expect(page.locator("#comparison .head")).to_contain_text("2 today")
    page.keyboard.press("u")
    expect(page.locator("#comparison")).to_have_attribute("data-assignment", second)
    assert Preference.objects.current().count() == 1


def test_a_failed_save_brings_the_judged_one_back(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    with page.expect_response("**/judge/ahead/"):
        first = open_judge(page, site)
    page.wait_for_timeout(100)
    page.keyboard.press("7")
    page.keyboard.press("c")
    page.keyboard.type("kept")
    rough.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    assert shown(page) == first
    expect(page.locator("input[name=strength]:checked")).to_have_value("3")
    rough.set_offline(False)
    wait_for_another(page, first)
    assert [(str(row.assignment_id), row.comment) for row in Preference.objects.all()] == [(first, "kept")]
    assert page.evaluate("Object.keys(localStorage)") == []


def test_what_is_kept_ready_is_held_by_nobody_else(page: Page, site: str, mei: User) -> None:
    with page.expect_response("**/judge/ahead/"):
        first = open_judge(page, site)
    held = Assignment.objects.filter(annotator=mei, state="leased").order_by("-lease_expires_at")
    assert [str(row.pk) for row in held][0] == first and held.count() == 2
    page.reload()
    assert shown(page) == first
