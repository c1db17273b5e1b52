"""What an annotator reads of their own latest judgements."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from feedback.models import Project, User
from tests.factories import make_preference

pytestmark = pytest.mark.django_db


def test_a_long_comment_can_be_read_whole(
    project: Project, annotator: User, sign_in: Callable[[User], Client]
) -> None:
    end = "and <b>this</b> is its end"
    for comment in ("short", "x" * 80, f"{'word ' * 100}\n{end}"):
        make_preference(project=project, annotator=annotator, comment=comment)
    html = sign_in(annotator).get(reverse("progress", args=[project.slug])).content.decode()
    (opened,) = re.findall(r"<details><summary>(.*?)</summary><p[^>]*>(.*?)</p></details>", html, re.DOTALL)
    summary, whole = opened
    assert summary.startswith("word word") and len(summary) == 80
    assert whole.endswith("and &lt;b&gt;this&lt;/b&gt; is its end")
    assert '<td data-label="Note">short</td>' in html and f'<td data-label="Note">{"x" * 80}</td>' in html


def test_what_was_not_said_is_marked_so_that_a_phone_leaves_it_out(
    project: Project, annotator: User, sign_in: Callable[[User], Client]
) -> None:
    make_preference(project=project, annotator=annotator)
    html = sign_in(annotator).get(reverse("progress", args=[project.slug])).content.decode()
    assert html.count('class="unsaid">–</td>') == 2
