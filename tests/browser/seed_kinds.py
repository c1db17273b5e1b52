"""Projects of the kinds beside pairs: rankings, ratings, demonstrations; texts short, long and odd."""

from __future__ import annotations

from feedback.models import Membership, Project, Role, User
from tests import factories

MARKDOWN = """## In short

Use a **list comprehension**; it is shorter and faster:

```python
def squares(numbers):
    # one pass, no append
    return [number ** 2 for number in numbers if number > 0]
```

1. It reads as what it means.
2. It does not need `append`.

| way | lines | time |
|---|---|---|
| loop | 4 | 1.0 |
| comprehension | 1 | 0.7 |

See [the tutorial](https://example.org/tutorial).
"""
ANSWERS = (
    MARKDOWN,
    "A for loop with append does it. " * 6 + "\n\n" + "Some people find that easier to read. " * 80,
    "squares = list(map(lambda n: n ** 2, filter(lambda n: n > 0, numbers)))",
    "I cannot help with that.\u200b Please \u202eask\u202c somebody else.",
)
KINDS = {"ranking": 4, "rating": 2, "demonstration": 0}


def projects(ana: User, mei: User) -> dict[str, Project]:
    """By kind; mei has judged one comparison of each and more wait."""
    made = {}
    for kind, count in KINDS.items():
        project = factories.make_project(
            slug=f"code-{kind}", name="Code help", kind=kind, candidates=max(count, 1)
        )
        Membership.objects.create(project=project, user=ana, role=Role.ADMIN)
        factories.make_member(project=project, user=mei)
        for number in range(3):
            prompt = factories.make_prompt(
                project=project, text=f"How do I square a list of numbers? ({number})"
            )
            texts = [factories.make_completion(prompt=prompt, text=text) for text in ANSWERS[:count]]
            comparison = factories.put_up(prompt, texts, kind=kind, priority=number)
            if number == 2:
                said = {
                    "ranking": {"ranking": [[0], [1, 2], [3]], "acceptability": "one"},
                    "rating": {
                        "ratings": [dict.fromkeys(project.criteria, 4), dict.fromkeys(project.criteria, 2)]
                    },
                    "demonstration": {
                        "written": factories.make_completion(prompt=prompt, text=MARKDOWN, source="written")
                    },
                }[kind]
                factories.make_preference(comparison=comparison, annotator=mei, **said)
        made[kind] = project
    return made


def gold(project: Project, annotators: list[User]) -> None:
    """Two gold comparisons, which the annotators found more or less often."""
    prompts = project.prompts.filter(completions__isnull=False).distinct().order_by("pk")[:2]
    for number, prompt in enumerate(prompts):
        pair = list(prompt.completions.order_by("pk")[:2])
        comparison = factories.put_up(
            prompt, pair, purpose="gold", gold_answer={"strength": 2}, overlap=10_000
        )
        for strength, annotator in enumerate(annotators, number):
            factories.make_preference(comparison=comparison, annotator=annotator, strength=strength)
