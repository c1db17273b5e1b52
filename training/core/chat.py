"""The text format of a model: messages to token ids, completions to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jinja2.exceptions import TemplateError

from training.core.types import Failure, Message

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For tokenizers without a chat template of their own; saved with the output."""


class Chat:
    """The text format of one model: messages to prompt ids, completions to ids and back."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Rows of the model: more than its tokenizer knows where they only pad, and these can be drawn, too.
        self.id_count: int = len(tokenizer)
        if tokenizer.eos_token_id is None:
            raise Failure(
                "no_eos", "the tokenizer has no end-of-text token", "Set eos_token in tokenizer_config.json."
            )
        if tokenizer.chat_template is None:
            bos = "{{ bos_token }}" if tokenizer("")["input_ids"] == [tokenizer.bos_token_id] else ""
            tokenizer.chat_template = bos + PLAIN_TEMPLATE
        self.eos_id: int = tokenizer.eos_token_id
        self.stop_ids: set[int] = {self.eos_id}
        pad_id = tokenizer.pad_token_id
        # Masks come from lengths, never from `ids != pad`, so EOS does for padding.
        self.pad_id: int = self.eos_id if pad_id is None else pad_id
        self.lead = self._lead()

    def _lead(self) -> str:
        """What the template puts between the prompt and the completion: mostly nothing, or one space."""
        question = [{"role": "user", "content": "a"}]
        prompt = self.render(question)
        whole = self.tokenizer.apply_chat_template(
            [*question, {"role": "assistant", "content": "b"}], tokenize=False
        )
        rest = whole[len(prompt) :] if whole.startswith(prompt) else ""
        return " " if rest.startswith(" b") else ""

    def render(self, messages: Sequence[Message]) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:  # some refuse system turns, or two turns of one speaker
            roles = ", ".join(message["role"] for message in messages)
            told = f"the model's chat template refuses a conversation of {roles}: {error}"
            raise Failure("bad_input", told, "Leave such prompts out, or choose another model.") from error
        return cast(str, rendered)

    def _ids(self, text: str) -> list[int]:
        """Raises Failure where the model has no row for one: some tokenizers know a token more than it."""
        ids = cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if ids and max(ids) >= self.id_count:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            told = f"the tokenizer reads {token!r} as {max(ids)}, and the model knows {self.id_count} tokens"
            raise Failure("bad_input", told, "Leave such texts out, or give the model its own tokenizer.")
        return ids

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        return self._ids(self.render(messages))

    def completion_ids(self, text: str) -> list[int]:
        """Ids of a completion with its EOS."""
        return [*self._ids(self.lead + text), self.eos_id]

    def text(self, completion_ids: Sequence[int]) -> str:
        """What a person reads: no special tokens, no lead, no spaces around."""
        return cast(str, self.tokenizer.decode(list(completion_ids), skip_special_tokens=True)).strip()

    def fit(self, messages: Sequence[Message], room: int) -> tuple[list[int], bool]:
        """Prompt ids of at most `room` tokens, and whether anything was lost.

        The oldest turns go first (a leading system turn stays); when the last turn alone is too long its
        oldest tokens go, so that the separator before the completion is never lost.
        """
        ids = self.prompt_ids(messages)
        if len(ids) <= room:
            return ids, False
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns = list(messages[len(system) :])
        while len(turns) > 1:
            turns.pop(0)
            if turns[0]["role"] == "assistant" and len(turns) > 1:
                continue
            ids = self.prompt_ids([*system, *turns])
            if len(ids) <= room:
                return ids, True
        return ids[len(ids) - room :], True

    def reads_ids_of(self, writer: Chat) -> bool:
        """Whether every id that the writer knows means the same text here; there may be more of them here."""
        known = self.tokenizer.get_vocab()
        return (
            all(known.get(token) == id for token, id in writer.tokenizer.get_vocab().items())
            and self.eos_id == writer.eos_id
            and self.tokenizer.chat_template == writer.tokenizer.chat_template
        )
