"""Forms of the data pages: upload, search, export."""

from __future__ import annotations

from datetime import datetime, time
from pathlib import PurePosixPath
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback.exchange.formats import Format
from feedback.exchange.judgements import importer_name
from feedback.exports import ExportFormat, Selection
from feedback.models import Comparison, Completion, Project, Prompt, User
from feedback.previews import proposed

ANY = ("", gettext_lazy("All"))


class UploadForm(forms.Form):
    file = forms.FileField(
        label=gettext_lazy("File"),
        help_text=gettext_lazy(
            "JSON Lines, a JSON array, CSV or plain text in UTF-8, as it is or packed with gzip; or Parquet. "
            "The next page shows its first rows; nothing is imported before you say so."
        ),
        widget=forms.ClearableFileInput(attrs={"accept": ".jsonl,.json,.ndjson,.csv,.txt,.gz,.parquet"}),
        allow_empty_file=True,  # the reader says that there are no rows, as it does of blank lines
        error_messages={
            "required": gettext_lazy("Choose a file of your computer: import by URL is disabled.")
        },
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


class PreviewForm(forms.Form):
    """How an uploaded file is read. Each of its columns has a field that says which of ours it is."""

    format = forms.ChoiceField(label=gettext_lazy("Format"), choices=Format.choices)
    put_up = forms.BooleanField(
        label=gettext_lazy("Put the completions up for judging instead"),
        required=False,
        help_text=gettext_lazy(
            "Otherwise the judgements in the file are kept as they are and can train a reward model at once."
        ),
    )
    nameless = forms.BooleanField(
        label=gettext_lazy("Leave out who judged"),
        required=False,
        help_text=gettext_lazy(
            "Otherwise people whom the file tells apart are told apart here, up to 1,000 of them."
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
        help_text=gettext_lazy(
            "Otherwise a column that the first rows do not have is an error further down."
        ),
    )

    def __init__(self, *args: Any, columns: list[str], wanted: tuple[str, ...], **named: Any) -> None:
        super().__init__(*args, **named)
        self.columns = columns if wanted else []
        choices = [("", gettext_lazy("is not read")), *((name, name) for name in wanted)]
        guess = proposed(columns, wanted)
        for number, column in enumerate(self.columns):
            self.fields[f"column_{number}"] = forms.ChoiceField(
                label=column, required=False, choices=choices, initial=guess[column]
            )

    def clean(self) -> dict[str, Any]:
        answers: dict[str, Any] = super().clean() or self.cleaned_data
        taken: dict[str, str] = {}
        for number, column in enumerate(self.columns):
            ours = answers.get(f"column_{number}")
            if ours and ours in taken:
                facts = {"ours": ours, "other": taken[ours]}
                self.add_error(f"column_{number}", _("%(ours)s is “%(other)s” already.") % facts)
            elif ours:
                taken[ours] = column
        return answers

    def column_fields(self) -> list[forms.BoundField]:
        return [self[f"column_{number}"] for number in range(len(self.columns))]

    def mapping(self) -> dict[str, str]:
        """Column of the file to column of ours, without those that keep their names."""
        chosen = {
            column: self.cleaned_data.get(f"column_{number}") or ""
            for number, column in enumerate(self.columns)
        }
        return {column: ours for column, ours in chosen.items() if column != ours}

    def options(self) -> dict[str, Any]:
        answers = self.cleaned_data
        return {
            "put_up": answers["put_up"],
            "nameless": answers["nameless"],
            "ignore_extra": answers["ignore_extra"],
            "split": answers["split"] or Prompt.Split.TRAIN,
            "mapping": self.mapping(),
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
    """Every choice maps to one fixed filter; a download, so it is sent by GET."""

    advanced = ("split", "since", "annotator", "every")

    format = forms.ChoiceField(
        label=gettext_lazy("Format"), required=False, choices=ExportFormat.choices, initial=ExportFormat.TRL
    )
    purpose = forms.ChoiceField(
        label=gettext_lazy("Of comparisons for"),
        required=False,
        choices=[*Comparison.Purpose.choices, ("all", gettext_lazy("Everything"))],
        initial=Comparison.Purpose.TRAINING,
    )
    split = forms.ChoiceField(
        label=gettext_lazy("Of prompts for"), required=False, choices=[ANY, *Prompt.Split.choices]
    )
    since = forms.DateField(
        label=gettext_lazy("Judged since"), required=False, widget=forms.DateInput(attrs={"type": "date"})
    )
    annotator = forms.ModelChoiceField(
        label=gettext_lazy("By"),
        required=False,
        queryset=User.objects.none(),
        empty_label=gettext_lazy("Everybody"),
    )
    every = forms.BooleanField(
        label=gettext_lazy("With judgements taken back or replaced"),
        required=False,
        help_text=gettext_lazy(
            "Only in the format with everything that is recorded: each row there says whether it is in force."
        ),
    )
    with_imported = forms.BooleanField(label=gettext_lazy("With imported preferences"), required=False)
    with_simulated = forms.BooleanField(label=gettext_lazy("With simulated annotators"), required=False)

    def __init__(self, *args: Any, project: Project, **named: Any) -> None:
        super().__init__(*args, **named)
        imported = Q(username__startswith=f"{importer_name(project)}.") | Q(username=importer_name(project))
        people = User.objects.filter(Q(memberships__project=project) | imported)
        field = self.fields["annotator"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = people.distinct().order_by("username")

    def chosen_format(self) -> ExportFormat:
        return ExportFormat(self.cleaned_data["format"] or ExportFormat.TRL)

    def selection(self) -> Selection:
        wanted = self.cleaned_data
        purpose = wanted["purpose"] or Comparison.Purpose.TRAINING
        since = wanted["since"]
        return Selection(
            purposes=() if purpose == "all" else (purpose,),
            split=wanted["split"],
            since=since and timezone.make_aware(datetime.combine(since, time.min)),
            annotator=wanted["annotator"] and wanted["annotator"].pk,
            include_simulated=wanted["with_simulated"],
            include_imported=wanted["with_imported"],
            current=not wanted["every"],
        )
