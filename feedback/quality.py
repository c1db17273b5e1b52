"""How well a project's people judge: who agrees with whom, what sways them, how long they take.

What counts is said in feedback.quality_rows. Everything is on completions, never on the side that they were
shown at; only position bias looks at sides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from django.db.models.functions import Length
from django.utils.translation import gettext as _

from feedback.agreement import (
    ALPHA,
    COHEN,
    FLEISS,
    RAW,
    TAU,
    Estimate,
    Quartiles,
    Share,
    clustered,
    directions,
    estimate,
    quartiles,
)
from feedback.models import Candidate, ComparisonKind, Project
from feedback.quality_rows import (
    LATEST,
    Judgement,
    Rows,
    Together,
    counted,
    full,
    left_out,
    together,
)

MOST_IN_TABLE = 8
"""People in the table of who agrees with whom: those with the most judgements."""
IN_A_QUERY = 5000
"""Comparisons named in one query; SQLite takes 32,766 values and more."""
PAIR_GROUPS, PAIR_REPLICATES = 30, 200
"""The table's many cells have less work each."""

# --- agreement --------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """One figure of agreement, with the sentence that says what it means."""

    name: str
    meaning: str
    estimate: Estimate
    chance: bool = True
    """Whether 0 is what chance gives; otherwise it is a share of 1."""


def agreements(
    kind: ComparisonKind, several: Together, orders: Together, criteria: Sequence[str]
) -> list[Agreement]:
    """Every figure of this kind of judgement; `orders` are those that order completions."""
    ordered = by_prompt(orders, order_units)
    equal, size = equally_many(orders)
    fleiss = by_prompt(equal, order_units)
    found = [
        Agreement(
            _("Raw agreement"),
            _("Of every two judgements of the same completions: how many say the same one is better."),
            estimate(ordered, RAW),
            chance=False,
        ),
        Agreement(
            _("Fleiss' kappa"),
            _("The same, with what chance would give taken off. Of comparisons with %d judgements each.")
            % size
            if size
            else _("The same, with what chance would give taken off."),
            estimate(fleiss, FLEISS),
        ),
    ]
    if kind == ComparisonKind.PAIRWISE:
        meaning = _("On the seven steps: a little apart counts less than far apart. 1 is full agreement.")
        scale = estimate(by_prompt(several, strength_units), ALPHA)
        found.append(Agreement(_("Krippendorff's alpha"), meaning, scale))
    elif kind == ComparisonKind.RANKING:
        meaning = _("How alike two people's whole rankings are, on average: 1 the same, −1 reversed.")
        taus = estimate(by_prompt(orders, ranking_units), TAU)
        found.append(Agreement(_("Kendall's tau-b"), meaning, taus))
        meaning = _("On better, tie, worse of every two completions: a tie is halfway between.")
        found.append(Agreement(_("Krippendorff's alpha"), meaning, estimate(ordered, ALPHA)))
    else:
        meaning = _("On the five steps of this criterion: 4 against 5 counts less than 1 against 5.")
        for criterion in criteria:
            given = estimate(by_prompt(several, rating_units(criterion)), ALPHA)
            found.append(Agreement(_("Krippendorff's alpha: %s") % criterion, meaning, given))
    return found


Units = list[Sequence[Any]]


def by_prompt(several: Together, units_of: Any) -> list[Units]:
    """The units of each prompt: all comparisons of one prompt go together."""
    found: dict[int, Units] = defaultdict(list)
    for group in several.values():
        found[group[0].prompt] += units_of(group)
    return [found[prompt] for prompt in sorted(found)]


def order_units(group: Sequence[Judgement]) -> Units:
    """A unit for every two candidates: which is better, says each annotator."""
    return list(zip(*(directions(judgement.scores) for judgement in group), strict=True))


def strength_units(group: Sequence[Judgement]) -> Units:
    return [[judgement.said for judgement in group]]


def ranking_units(group: Sequence[Judgement]) -> Units:
    return [[judgement.scores for judgement in group]]


def rating_units(criterion: str) -> Any:
    """A unit for every candidate."""

    def units(group: Sequence[Judgement]) -> Units:
        of_candidates = zip(*(judgement.said for judgement in group), strict=True)
        return [[given[criterion] for given in said if criterion in given] for said in of_candidates]

    return units


def equally_many(several: Together) -> tuple[Together, int]:
    """The comparisons with the number of judgements that most have, since Fleiss' kappa wants one number."""
    sizes = Counter(len(group) for group in several.values())
    if not sizes:
        return {}, 0
    size = max(sizes, key=lambda size: (sizes[size], size))
    return {comparison: group for comparison, group in several.items() if len(group) == size}, size


# --- who with whom ----------------------------------------------------------------------------------


class Cell(NamedTuple):
    """Cohen's kappa of two people, over the comparisons that both judged."""

    estimate: Estimate
    comparisons: int


def kappas(several: Together) -> tuple[list[int], dict[tuple[int, int], Cell]]:
    """The people who judged most beside others, and a cell for every two of them."""
    judged = Counter(judgement.annotator for group in several.values() for judgement in group)
    people = sorted(person for person, _count in judged.most_common(MOST_IN_TABLE))
    shared: dict[tuple[int, int], dict[int, Units]] = {pair: {} for pair in combinations(people, 2)}
    counts: Counter[tuple[int, int]] = Counter()
    for group in several.values():
        own = {judgement.annotator: judgement for judgement in group}
        for pair in combinations(sorted(own), 2):
            if pair in shared:
                first, second = own[pair[0]], own[pair[1]]
                units = shared[pair].setdefault(first.prompt, [])
                units += zip(directions(first.scores), directions(second.scores), strict=True)
                counts[pair] += 1
    work = {"most_groups": PAIR_GROUPS, "replicates": PAIR_REPLICATES}
    cells = {
        pair: Cell(estimate(units.values(), COHEN, **work), counts[pair]) for pair, units in shared.items()
    }
    return people, cells


# --- what sways -------------------------------------------------------------------------------------

Tallies = dict[int, tuple[int, int]]
"""Prompt -> (chosen so, decided)."""


class Sway(NamedTuple):
    """How often the one shown first, or the longer one, was preferred: of all, and of each annotator."""

    overall: Share
    by_annotator: dict[int, Share]


def position_bias(found: Iterable[Judgement]) -> Sway:
    """Sides are drawn by a fair coin, so half is fair."""
    return _sway((judgement, _first_shown(judgement)) for judgement in found if judgement.shown)


def _first_shown(judgement: Judgement) -> Iterator[bool]:
    place = {position: place for place, position in enumerate(judgement.shown)}
    positions = combinations(range(len(judgement.scores)), 2)
    for (one, other), direction in zip(positions, directions(judgement.scores), strict=True):
        if direction:
            yield (direction > 0) == (place[one] < place[other])


def length_bias(found: Iterable[Judgement], lengths: Mapping[int, Sequence[int]]) -> Sway:
    """Longer may well be better: only the texts can tell. Two of one length are not counted."""
    return _sway(
        (judgement, _longer(judgement, lengths[judgement.comparison]))
        for judgement in found
        if judgement.comparison in lengths
    )


def _longer(judgement: Judgement, lengths: Sequence[int]) -> Iterator[bool]:
    signs = zip(directions(judgement.scores), directions(lengths), strict=True)
    for direction, longer in signs:
        if direction and longer:
            yield direction == longer


def _sway(rows: Iterable[tuple[Judgement, Iterator[bool]]]) -> Sway:
    overall: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    own: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for judgement, chosen in rows:
        for so in chosen:
            for tally in (overall[judgement.prompt], own[judgement.annotator][judgement.prompt]):
                tally[0] += so
                tally[1] += 1
    by_annotator = {person: _share(tallies) for person, tallies in own.items()}
    return Sway(_share(overall), by_annotator)


def _share(tallies: Mapping[int, Sequence[int]]) -> Share:
    return clustered((right, count) for right, count in tallies.values())


def lengths_of(found: Rows) -> dict[int, list[int]]:
    """Characters of each candidate by position, of every comparison that was judged.

    Asked by their numbers, some thousand in a query: told to find them by the conditions of the judgements,
    PostgreSQL looked through all of those for each candidate, whenever it had not counted its rows yet.
    """
    judged = sorted({judgement.comparison for rows in found.values() for judgement in rows})
    lengths: dict[int, list[int]] = defaultdict(list)
    for start in range(0, len(judged), IN_A_QUERY):
        asked = Candidate.objects.filter(comparison__in=judged[start : start + IN_A_QUERY])
        rows = asked.order_by("comparison", "position")
        for comparison, length in rows.values_list("comparison", Length("completion__text")):
            lengths[comparison].append(length)
    return lengths


# --- time -------------------------------------------------------------------------------------------


class Pace(NamedTuple):
    """Active seconds of one judgement: the page was visible, in focus, and its person not idle."""

    seconds: Quartiles | None
    judged: int
    measured: int


def paces(times: Iterable[tuple[int, int | None]]) -> tuple[Pace, dict[int, Pace]]:
    """Of (annotator, active milliseconds): of all, and of each annotator."""
    by_annotator: dict[int, list[int | None]] = defaultdict(list)
    for annotator, active_ms in times:
        by_annotator[annotator].append(active_ms)
    overall = [active_ms for own in by_annotator.values() for active_ms in own]
    return _pace(overall), {annotator: _pace(own) for annotator, own in by_annotator.items()}


def _pace(times: Sequence[int | None]) -> Pace:
    seconds = [active_ms / 1000 for active_ms in times if active_ms is not None]
    return Pace(quartiles(seconds), len(times), len(seconds))


def demonstration_times(project: Project, *, simulated: bool) -> list[tuple[int, int | None]]:
    rows = counted(project, simulated=simulated).filter(kind=ComparisonKind.DEMONSTRATION)
    return list(rows.order_by("-pk").values_list("annotator", "active_ms")[:LATEST])


# --- all of it --------------------------------------------------------------------------------------


class OfKind(NamedTuple):
    """The agreement of one kind of judgement."""

    kind: ComparisonKind
    judged: int
    comparisons: int
    """With two judgements or more."""
    prompts: int
    agreements: list[Agreement]
    people: list[int]
    cells: dict[tuple[int, int], Cell]


class Quality(NamedTuple):
    """What the page shows."""

    kinds: list[OfKind]
    position: Sway
    length: Sway
    pace: Pace
    paces: dict[int, Pace]
    cut: bool
    """Whether there were more judgements than are looked at."""


def quality_of(project: Project, found: Rows, *, simulated: bool) -> Quality:
    """Of the rows read before, with a few queries more: lengths, and the times of demonstrations."""
    orders = [judgement for rows in found.values() for judgement in rows if judgement.scores]
    written = demonstration_times(project, simulated=simulated)
    times = [(judgement.annotator, judgement.active_ms) for rows in found.values() for judgement in rows]
    pace, by_annotator = paces([*times, *written])
    kinds = full(found) + [ComparisonKind.DEMONSTRATION] * (len(written) >= LATEST)
    lengths = lengths_of(found)
    return Quality(
        [_of_kind(kind, rows, project.criteria) for kind, rows in found.items() if rows],
        position_bias(orders),
        length_bias(orders, lengths),
        pace,
        by_annotator,
        left_out(project, kinds, simulated=simulated),
    )


def _of_kind(kind: ComparisonKind, found: list[Judgement], criteria: list[str]) -> OfKind:
    several = together(found)
    known = {name for row in found if kind == ComparisonKind.RATING for given in row.said for name in given}
    names = [name for name in criteria if name in known] + sorted(known - set(criteria))
    ordered = together(row for row in found if row.scores)
    people, cells = kappas(ordered)
    prompts = {group[0].prompt for group in several.values()}
    return OfKind(
        kind, len(found), len(several), len(prompts), agreements(kind, several, ordered, names), people, cells
    )
