"""The KL limit: the last weights that a rollout measured within it, and the way back to them."""

from __future__ import annotations

from training.core import state
from training.core.configs import PolicyConfig
from training.core.models import Policy
from training.core.types import Failure, Note, Saved


class LastGood:
    """Copies of the weights that are trained. `kept` updates are in them, `made` in the policy itself."""

    def __init__(self, policy: Policy, config: PolicyConfig, saved: Saved | None) -> None:
        self.policy, self.config = policy, config
        if saved is None:
            self.made = 0
            self.keep()
        else:
            self.weights = state.part(saved.tensors, "good.", policy.device)
            # Older checkpoints do not count: each step was an update, and a rollout follows the last one.
            self.kept, self.made = saved.facts.get("updates", [saved.step - 1, saved.step])

    def keep(self) -> None:
        """The policy's weights have been measured, and lie within the limit."""
        self.kept, self.weights = self.made, state.named_weights(self.policy.model, "good.")

    def go_back(self, kl: float) -> Note:
        """Restore them, the policy's being `kl` nats away; raises Failure where no update is in them."""
        told = f"the mean KL from the reference is {kl:.2f} nats, beyond kl_limit = {self.config.kl_limit:g}"
        if not self.made:
            hint = "Choose a reference nearer to the policy, or raise kl_limit."
            raise Failure("beyond_kl_limit", f"before the first update {told}", hint)
        if not self.kept:
            told = f"after the first update {told}: there is nothing to keep"
            raise Failure("beyond_kl_limit", told, f"Lower {self.config.step_sizes}, or raise kl_limit.")
        if self.made == self.kept:  # chance, after a step that changed nothing
            again = "the same weights were within it on another rollout, and are kept"
            return Note("warning", f"The run ended: {told}; {again}.")
        state.restore_weights(self.policy.model, self.weights, "good.")
        self.made = self.kept
        told = f"The last update was taken back: {told}. Weights of the last rollout within it are kept. "
        return Note("warning", told + "Smaller steps or a higher kl_coefficient go further.")
