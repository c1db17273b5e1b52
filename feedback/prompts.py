"""What is judged, as rows: prompts, and the completions that answer them."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from feedback.people import Project
from feedback.texts import Message, canonical_json, sha256_text


class Prompt(models.Model):
    """Messages that a completion answers."""

    class Split(models.TextChoices):
        TRAIN = "train", _("Training")
        HELD_OUT = "held_out", _("Held out")
        REVIEW = "review", _("Review")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompts")
    messages = models.JSONField(_("messages"))
    content_hash = models.CharField(max_length=64, editable=False)
    source = models.CharField(_("source"), max_length=80, blank=True)
    external_id = models.CharField(_("external id"), max_length=200, blank=True)
    split = models.CharField(_("split"), max_length=8, choices=Split, default=Split.TRAIN)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(
                fields=("project", "content_hash"), name="same_messages_once_in_a_project"
            ),
        )
        indexes = (models.Index(fields=("project", "split")),)

    def __str__(self) -> str:
        return self.last_message[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.content_hash = self.hash_of(self.messages)
        super().save(*args, **kwargs)

    @staticmethod
    def hash_of(messages: list[Message]) -> str:
        return sha256_text(canonical_json(messages))

    @property
    def last_message(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""


class Completion(models.Model):
    """Text that answers a prompt: imported, sampled by a model version, or written by a person."""

    class Source(models.TextChoices):
        IMPORTED = "imported", _("Imported")
        SAMPLED = "sampled", _("Sampled")
        WRITTEN = "written", _("Written")
        CORRECTED = "corrected", _("Corrected")

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="completions")
    text = models.TextField(_("text"))
    text_hash = models.CharField(max_length=64, editable=False)
    source = models.CharField(_("source"), max_length=9, choices=Source)
    model_version = models.ForeignKey(
        "training.ModelVersion", on_delete=models.PROTECT, null=True, blank=True, related_name="completions"
    )
    sampling = models.JSONField(_("sampling"), default=dict, blank=True)
    """{"run", "temperature", "max_new_tokens", "seed", "index"} of a sampled completion."""
    token_count = models.PositiveIntegerField(_("tokens"), null=True, blank=True)
    finish_reason = models.CharField(_("finish reason"), max_length=10, blank=True)
    logprob = models.FloatField(_("log-probability"), null=True, blank=True)
    corrected_from = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(
                fields=("prompt", "text_hash", "model_version"),
                condition=Q(model_version__isnull=False),
                name="same_text_by_a_version_once",
            ),
            models.UniqueConstraint(
                fields=("prompt", "text_hash", "source"),
                condition=Q(model_version__isnull=True),
                name="same_text_of_a_source_once",
            ),
        )

    def __str__(self) -> str:
        return self.text[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.text_hash = sha256_text(self.text)
        super().save(*args, **kwargs)
