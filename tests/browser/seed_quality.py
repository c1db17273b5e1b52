"""A project whose comparisons several people judged: they agree on most, not on all, and not all alike."""

from __future__ import annotations

import random

from feedback import adjudication
from feedback.models import Comparison, Membership, Project, Role, User
from tests import factories

SHORT = "Yes: open Orders, choose the parcel, then Address."
LONG = (
    "You can change the address of a parcel for as long as it has not been packed. Open Orders, choose the "
    "parcel and then Address. Once it is packed, the carrier can still hold it for you at a shop nearby."
)
LEANING = {"mei": 0.0, "tomas": 0.4, "ravi": -0.3, "eva": 1.6}
"""How much each is drawn to the longer completion; eva likes length more than anything."""


def project(people: dict[str, User]) -> Project:
    draw = random.Random(4)
    made = factories.make_project(slug="opinions", name="Opinions", overlap=3)
    Membership.objects.create(project=made, user=people["ana"], role=Role.ADMIN)
    for name in LEANING:
        factories.make_member(project=made, user=people[name])
    comparisons = [pair(made, people, draw, number) for number in range(40)]
    for number in range(12):
        ranking(made, people, draw, number)
        rating(made, people, draw, number)
    decide(comparisons, people["ravi"])
    return made


def pair(made: Project, people: dict[str, User], draw: random.Random, number: int) -> Comparison:
    """By three people each; both lengths on either canonical side."""
    prompt = factories.make_prompt(project=made, text=f"Can I still change the address of order {number}?")
    texts = [f"{SHORT} ({number})", f"{LONG} ({number})"]
    sign = 1
    if number % 2:
        texts.reverse()
        sign = -1
    pair = [factories.make_completion(prompt=prompt, text=text) for text in texts]
    comparison = factories.put_up(prompt, pair)
    better = draw.gauss(0.2, 1.8)
    for name in draw.sample(sorted(LEANING), 3):
        felt = max(-3, min(3, round(better + LEANING[name] + draw.gauss(0, 0.7))))
        factories.make_preference(
            comparison=comparison,
            annotator=people[name],
            strength=sign * felt,
            shown_order=draw.choice(([0, 1], [1, 0])),
            active_ms=round(draw.lognormvariate(9.8 + LEANING[name] / 4, 0.5)),
            comment="It answers the question." if name == "ravi" and number < 8 else "",
        )
    factories.make_preference(
        comparison=comparison,
        annotator=people["robot"],
        strength=sign * max(-3, min(3, round(better))),
        simulated=True,
        active_ms=900,
    )
    return comparison


def ranking(made: Project, people: dict[str, User], draw: random.Random, number: int) -> None:
    prompt = factories.make_prompt(project=made, text=f"What does express cost for {number} kg?")
    texts = [factories.make_completion(prompt=prompt) for _ in range(4)]
    comparison = factories.put_up(prompt, texts, kind="ranking", overlap=2)
    for name in ("mei", "tomas"):
        order = sorted(range(4), key=lambda place: place + draw.gauss(0, 1.2))
        groups = [[order[0]], [order[1]], sorted(order[2:])]
        factories.make_preference(
            comparison=comparison,
            annotator=people[name],
            ranking=groups,
            shown_order=draw.sample(range(4), 4),
        )


def rating(made: Project, people: dict[str, User], draw: random.Random, number: int) -> None:
    prompt = factories.make_prompt(project=made, text=f"Is parcel {number} insured?")
    texts = [factories.make_completion(prompt=prompt) for _ in range(2)]
    comparison = factories.put_up(prompt, texts, kind="rating", overlap=2)
    felt = [{name: draw.uniform(1.4, 4.6) for name in made.criteria} for _ in texts]
    for name in ("mei", "ravi"):
        ratings = [
            # honest: everybody always says 5, so agreement on it is not defined
            {what: 5 if what == "honest" else round(at + draw.gauss(0, 0.5)) for what, at in own.items()}
            for own in felt
        ]
        bounded = [{what: max(1, min(5, given)) for what, given in own.items()} for own in ratings]
        factories.make_preference(
            comparison=comparison,
            annotator=people[name],
            ratings=bounded,
            shown_order=draw.sample(range(2), 2),
        )


def decide(comparisons: list[Comparison], reviewer: User) -> None:
    for comparison in comparisons[:2]:
        said = {"strength": 2, "acceptability": "one", "comment": "The shorter one says it all."}
        adjudication.adjudicate(comparison, reviewer, said, since=None)
