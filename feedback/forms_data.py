"""Forms of the data pages: upload, search, export."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback.exchange.formats import Format
from feedback.models import Completion, Prompt

ANY = ("", gettext_lazy("All"))


class UploadForm(forms.Form):
    file = forms.FileField(
        label=gettext_lazy("File"),
        help_text=gettext_lazy("JSON Lines, CSV or plain text in UTF-8, as it is or packed with gzip."),
        widget=forms.ClearableFileInput(attrs={"accept": ".jsonl,.json,.ndjson,.csv,.txt,.gz"}),
    )
    format = forms.ChoiceField(
        label=gettext_lazy("Format"),
        required=False,
        choices=[("", gettext_lazy("Recognise by content")), *Format.choices],
    )
    put_up = forms.BooleanField(
        label=gettext_lazy("Put the pairs up for judging instead"),
        required=False,
        help_text=gettext_lazy(
            "Otherwise the preferences in the file are kept as they are and can train a reward model at once."
        ),
    )
    split = forms.ChoiceField(
        label=gettext_lazy("New prompts are for"),
        required=False,
        choices=Prompt.Split.choices,
        initial=Prompt.Split.TRAIN,
        help_text=gettext_lazy("Held out and review prompts stay out of every training."),
    )
    skip_bad_rows = forms.BooleanField(
        label=gettext_lazy("Skip bad rows"),
        required=False,
        help_text=gettext_lazy("Otherwise one bad row stops the whole file, and nothing is written."),
    )
    ignore_extra = forms.BooleanField(
        label=gettext_lazy("Ignore other columns"),
        required=False,
        help_text=gettext_lazy("Otherwise a column that the format does not know is an error."),
    )

    def clean_file(self) -> UploadedFile[bytes]:
        file: UploadedFile[bytes] = self.cleaned_data["file"]
        if file.size and file.size > settings.IMPORT_MAX_BYTES:
            limit = settings.IMPORT_MAX_BYTES // 1024**2
            raise ValidationError(_("The file is over %d MiB.") % limit, code="too_large")
        return file

    @property
    def file_name(self) -> str:
        """The last part of the name the browser sent; shown, never used as a path."""
        return PurePosixPath(str(self.cleaned_data["file"].name)).name

    def options(self) -> dict[str, Any]:
        answers = self.cleaned_data
        return {
            "put_up": answers["put_up"],
            "ignore_extra": answers["ignore_extra"],
            "split": answers["split"] or Prompt.Split.TRAIN,
        }


class PromptFilterForm(forms.Form):
    """Every choice maps to one fixed filter; nothing typed becomes a field name."""

    q = forms.CharField(label=gettext_lazy("Text"), required=False, max_length=200)
    split = forms.ChoiceField(label=gettext_lazy("For"), required=False, choices=[ANY, *Prompt.Split.choices])
    source = forms.ChoiceField(
        label=gettext_lazy("Completions"), required=False, choices=[ANY, *Completion.Source.choices]
    )
    imported_by = forms.IntegerField(label=gettext_lazy("Import"), required=False, min_value=1)


class ExportForm(forms.Form):
    with_imported = forms.BooleanField(label=gettext_lazy("With imported preferences"), required=False)
    with_simulated = forms.BooleanField(label=gettext_lazy("With simulated annotators"), required=False)
