"""Simulated annotators: a stated taste with noise, who judge through the same pages as people.

They measure the loop, not people: every account and every preference of theirs is marked simulated. The
trainer cannot import this file, so what a reward model knows of the taste it has learned from judgements.

The taste of `Helpful`, for answers of a shop's help desk, in sentences:

- A concrete action ("I have cancelled ...", "Please hold the button ...") is liked most, then a next step.
- Courtesy is liked once; a second apology and each one after it is disliked.
- The customer's own order or account number is liked. Another number, or goods nobody spoke of, are disliked.
- Evasion, selling, empty tickets, blame and curtness are disliked, each time they occur.
- The right length is 12 to 45 words; a thing should be said once, and the last sentence ended.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from feedback.models import Message


def phrases(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(rf"\b(?:{pattern})" for pattern in patterns), re.IGNORECASE)


ACTION = phrases(
    r"(?:I|we) have (?:\w+ )?(?!lost|noted|no\b|to\b|a\b|half\b)(?:made\b|\w+(?:ed|t|n|d)\b)",
    r"I (?:checked|traced|found|opened|sent|asked)\b",
    r"please (?!write|do not|forgive|accept|wait|be\b|help)\w+",
)
NEXT_STEP = phrases(
    r"you will (?:get|have|receive)\b",
    r"will (?:then )?(?:reach|arrive|be on|call|send|replace)\b",
    r"leaves today\b",
    r"you can sign in\b",
)
COURTESY = phrases(r"sorry\b", r"thank you\b", r"happy to\b", r"gladly\b", r"of course\b", r"anything else\b")
APOLOGY = phrases(r"sorry\b", r"apolog", r"forgive\b", r"ashamed\b", r"feel awful\b")
UNHELPFUL = phrases(
    # evasion
    *(r"many reasons\b", r"hard to say\b", r"depend on\b", r"cannot promise\b", r"another team\b"),
    *(r"you may find\b", r"perhaps\b", r"it might be\b", r"wish I could\b", r"lost the thread\b"),
    *(r"such is life\b", r"what was your question\b"),
    # empty tickets
    *(r"(?:has been|was) (?:received|created)\b", r"will be handled\b", r"do not reply\b", r"our hours\b"),
    # selling
    *(r"on sale\b", r"half the price\b", r"for free\b", r"plus plan\b", r"you will love\b", r"of buying\b"),
    # blame and curtness
    *(r"you should (?:not )?have\b", r"that is all\b", r"nothing more to say\b", r"next time\b"),
    *(r"no need to write\b", r"that is normal\b", r"wait\b", r"take time\b", r"you pay for it\b"),
)
GOODS = phrases(
    *("kettle", "toaster", "desk lamp", "headset", "router", "tablet", "keyboard", "printer", "camera"),
    *("speaker", "heater", "blender", "coffee maker", "vacuum cleaner", "monitor", "charger", "backpack"),
    *("rice cooker", "hair dryer", "sewing machine", "radio"),
)
NUMBER = re.compile(r"\b\d{3,}\b")
SENTENCE = re.compile(r"[^.!?]+[.!?]?")


class Taste(Protocol):
    """How much somebody likes a completion of a prompt; about -5 to 4, and 1 is good enough."""

    def score(self, messages: Sequence[Message], completion: str) -> float: ...


class Helpful:
    """The taste told in this file's head."""

    def score(self, messages: Sequence[Message], completion: str) -> float:
        asked = " ".join(message["content"] for message in messages)
        words = completion.split()
        if not words:
            return -5.0
        liked = 1.2 * min(len(ACTION.findall(completion)), 2)
        liked += 0.7 * bool(NEXT_STEP.search(completion)) + 0.5 * bool(COURTESY.search(completion))
        disliked = 0.8 * max(0, len(APOLOGY.findall(completion)) - 1)
        disliked += 0.8 * len(UNHELPFUL.findall(completion))
        return liked - disliked + self.reference(asked, completion) - self.form(completion, words)

    def reference(self, asked: str, completion: str) -> float:
        """The customer's number and goods, or somebody else's."""
        numbers, named = set(NUMBER.findall(asked)), set(NUMBER.findall(completion))
        goods = {found.lower() for found in GOODS.findall(asked)}
        strange = {found.lower() for found in GOODS.findall(completion)} - goods
        # A customer who gave only a number has not said what they bought.
        wrong_goods = 0.8 * len(strange) if goods else 0.0
        return 0.6 * bool(named & numbers) - 2.0 * len(named - numbers) - wrong_goods

    def form(self, completion: str, words: list[str]) -> float:
        """What length, repetition and a missing end cost."""
        found = (sentence.strip().lower() for sentence in SENTENCE.findall(completion))
        sentences = [sentence for sentence in found if sentence]
        cost = 0.05 * max(0, len(words) - 45) + 0.12 * max(0, 12 - len(words))
        cost += 1.0 * (len(sentences) - len(set(sentences)))
        return cost + 0.6 * (not completion.rstrip().endswith((".", "!", "?")))


TASTES: dict[str, Taste] = {"helpful": Helpful()}
TIE_BELOW, SLIGHT_BELOW, BETTER_BELOW = 0.2, 1.0, 2.5
GOOD_ENOUGH = 1.0


class Judgement(NamedTuple):
    """As the page's form wants it: from left to right."""

    strength: int
    acceptability: str


class SimulatedAnnotator:
    """A taste, the share of judgements turned round by noise, and the share given to the left side unread.

    With `shuffled` the answer is a fair coin: the control in which there is nothing to learn.
    """

    def __init__(
        self,
        taste: Taste,
        *,
        noise: float = 0.0,
        position_bias: float = 0.0,
        shuffled: bool = False,
        seed: int = 0,
    ) -> None:
        self.taste = taste
        self.noise = noise
        self.position_bias = position_bias
        self.shuffled = shuffled
        self.random = random.Random(seed)

    def judge(self, messages: Sequence[Message], left: str, right: str) -> Judgement:
        # Three draws for every judgement, so that one setting does not shift the draws of another.
        coin, noise, bias = (self.random.random() for _ in range(3))
        if self.shuffled:
            return Judgement(-2 if coin < 0.5 else 2, "one")
        if bias < self.position_bias:
            return Judgement(-2, "one")
        a, b = self.taste.score(messages, left), self.taste.score(messages, right)
        strength = steps_of(b - a)
        if noise < self.noise:
            strength = -strength if strength else (-1 if coin < 0.5 else 1)
        return Judgement(strength, acceptability_of(a, b, strength))


def steps_of(difference: float) -> int:
    """The seven-step answer to a difference of scores, positive for the right one."""
    size = sum(abs(difference) >= bound for bound in (TIE_BELOW, SLIGHT_BELOW, BETTER_BELOW))
    return size if difference > 0 else -size


def acceptability_of(left: float, right: float, strength: int) -> str:
    good = (left >= GOOD_ENOUGH) + (right >= GOOD_ENOUGH)
    if good == 1:
        return "one" if strength else "both"
    return "both" if good else "neither"
