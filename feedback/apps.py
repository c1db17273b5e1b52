from django.apps import AppConfig


class FeedbackConfig(AppConfig):
    """What people say: prompts, completions, comparisons, preferences."""

    name = "feedback"
    verbose_name = "Feedback"
