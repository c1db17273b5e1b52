"""Arithmetic on B x T tensors with a mask that is true on tokens that count. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 1 << 25
"""Logits that may exist at a time, all rows together: 128 MiB in float32."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the true places of `mask`; 0 where there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Biased variance over the true places of `mask`; 0 where there are none."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Unit variance over the true places of `mask`, and zero mean unless `shift_mean` is false; 0 elsewhere.

    Statistics are those of the whole rollout, biased variance plus 1e-8 (Huang et al. 2023, detail 10 of "The
    N Implementation Details of RLHF with PPO"). One place, or none, gives zeros and never a NaN.
    """
    mean = masked_mean(values, mask)
    scaled = (values - mean) * torch.rsqrt(masked_variance(values, mask) + 1e-8)
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0.0)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits)[..., tokens] in float32, without a copy of the logits: (..., V), (...) -> (...)."""
    logits = logits.float()
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats: (..., V) -> (...)."""
    logits = logits.float()
    normaliser = logits.logsumexp(-1)
    return normaliser - (torch.exp(logits - normaliser.unsqueeze(-1)) * logits).sum(-1)


def rows_at_once(vocabulary: int) -> int:
    """Tokens whose logits may exist at a time."""
    return max(1, LOGITS_AT_ONCE // vocabulary)


class _OfLogits(torch.autograd.Function):
    """`token_logprobs` and `entropy` of N x V logits / temperature; the gradient is written where they stood.

    Beside the logits there is never more than a few sixteenths of `LOGITS_AT_ONCE`. They must be nobody
    else's.
    """

    @staticmethod
    def pieces(logits: Tensor) -> list[slice]:
        step = max(1, rows_at_once(logits.shape[1]) // 16)
        return [slice(start, start + step) for start in range(0, len(logits), step)]

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, want_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies = logits.new_zeros(2, len(logits)).unbind()
        for some in _OfLogits.pieces(logits):
            piece = logits[some] if temperature == 1.0 else logits[some] / temperature
            logprobs[some] = token_logprobs(piece, tokens[some])
            if want_entropy:
                entropies[some] = entropy(piece)
        ctx.temperature, ctx.want_entropy = temperature, want_entropy
        ctx.save_for_backward(logits, tokens, entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, of_logprobs: Tensor, of_entropies: Tensor) -> tuple[Tensor | None, ...]:
        """d log p_i / d x_j = [i = j] - p_j and dH / d x_j = -p_j (log p_j + H), x = logits / temperature."""
        if torch.is_grad_enabled():
            raise RuntimeError("log-probabilities made in parts have no second derivative")
        logits, tokens, entropies = ctx.saved_tensors
        logits = logits.detach()
        for some in _OfLogits.pieces(logits):
            piece, slope = logits[some].div_(ctx.temperature), of_logprobs[some].unsqueeze(1)
            shares = torch.softmax(piece, -1)
            if ctx.want_entropy:
                level = piece.logsumexp(-1, keepdim=True) - entropies[some].unsqueeze(1)
                piece.sub_(level).mul_(of_entropies[some].unsqueeze(1)).add_(slope)
            else:
                piece.copy_(slope.expand_as(piece))
            piece.mul_(shares).neg_().scatter_add_(1, tokens[some].unsqueeze(1), slope).div_(ctx.temperature)
        return logits, None, None, None


def logprobs_and_entropy(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    tokens: Tensor,
    *,
    temperature: float,
    want_entropy: bool,
    vocabulary: int,
) -> tuple[Tensor, Tensor]:
    """Of softmax(head(states) / temperature): log-probabilities of `tokens` and entropies, N x d, N -> N, N.

    Where the logits would be many, they are made for some rows at a time, and once more for the gradient:
    no more than `LOGITS_AT_ONCE` ever exist. What `head` gives must be new: it is written over. Entropies are
    0 unless they are wanted. There is no second derivative.
    """

    def of_some(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return _OfLogits.apply(head(states).float(), tokens, temperature, want_entropy)

    rows = rows_at_once(vocabulary)
    if len(states) <= rows:
        return of_some(states, tokens)
    parts = [
        checkpoint(of_some, some, theirs, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else of_some(some, theirs)
        for some, theirs in zip(states.split(rows), tokens.split(rows), strict=True)
    ]
    logprobs, entropies = (torch.cat(found) for found in zip(*parts, strict=True))
    return logprobs, entropies


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log pi - log ref: unbiased for KL(pi || ref) under pi, and the one of the three fit for a reward."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, and never negative."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """ref/pi - 1 - log(ref/pi): unbiased and never negative (Schulman 2020, "Approximating KL")."""
    log_ratio = (ref_logprobs - logprobs).clamp(-20.0, 20.0)
    return torch.exp(log_ratio) - 1.0 - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    """-beta x KL on every completion token, plus the score on the last one (the EOS, or the cut-off).

    `scores` B, `kl` and `mask` B x T with each row's true places first. A row without a token earns nothing.
    Source: Ziegler et al. 2019, equation 2, per token as in Stiennon et al. 2020, section 3.4.
    """
    rewards = torch.where(mask, -beta * kl, 0.0)
    lengths = mask.sum(1)
    rows = torch.nonzero(lengths).squeeze(1)
    rewards[rows, lengths[rows] - 1] += scores[rows]
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, B x T, 0 beyond the mask (Schulman et al. 2016, equation 16).

    `values[t]` is the value of the state before token t. The state after a row's last token is terminal, with
    value 0, also when the completion was cut off by its length. Returns = advantages + values, never
    whitened.
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0]) if rewards.shape[1] else None
    for t in reversed(range(rewards.shape[1])):
        assert running is not None
        following = (
            torch.where(mask[:, t + 1], values[:, t + 1], 0.0)
            if t + 1 < rewards.shape[1]
            else torch.zeros_like(running)
        )
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, 0.0)
        advantages[:, t] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


def returns_to_go(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Discounted sum of the rewards from each token on: B x T, 0 beyond the mask."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lam=1.0)[1]


def leave_one_out_mean(values: Tensor, groups: Tensor) -> Tensor:
    """For each of B values the mean of the others of its group; a value alone in its group gets itself.

    `groups` B, small whole numbers. The advantage value - mean sums to 0 over a group (Kool et al. 2019).
    """
    sums = torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(0, groups, values)[groups]
    others = torch.bincount(groups)[groups] - 1
    return torch.where(others > 0, (sums - values) / others.clamp(min=1), values)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for one that knows nothing.

    0 too when all returns are equal.
    """
    variance = masked_variance(returns, mask)
    if variance < 1e-12:
        return torch.zeros_like(variance)
    return 1.0 - masked_variance(returns - values, mask) / variance


def adapt_kl_coefficient(beta: float, kl: float, *, target: float, horizon: float, episodes: int) -> float:
    """beta x (1 + clip(KL/target - 1, -0.2, 0.2) x episodes / horizon); Ziegler et al. 2019, section 2.2."""
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * episodes / horizon)


def flatten(parts: Sequence[Tensor]) -> Tensor:
    """All values of all parts, one after the other."""
    return torch.cat([part.detach().reshape(-1) for part in parts])


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], gradient: Tensor, iterations: int
) -> tuple[Tensor, float]:
    """x with product(x) = gradient, and |residual| / |gradient| (Hestenes and Stiefel 1952)."""
    x, residual = torch.zeros_like(gradient), gradient.clone()
    direction, square = residual.clone(), residual @ residual
    start = square.clone()
    for _iteration in range(iterations):
        if float(square) <= 1e-10 * float(start):
            break
        along = product(direction)
        size = square / (direction @ along)
        x, residual = x + size * direction, residual - size * along
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return x, float((square / start).sqrt()) if float(start) else 0.0


# --- second derivatives -----------------------------------------------------------------------------


def shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """`flatten` undone: the parts have the shapes of `like`."""
    parts = flat.split([part.numel() for part in like])
    return [part.view_as(shape) for part, shape in zip(parts, like, strict=True)]


def derivative_along(outputs: Tensor, inputs: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """J v, the shape of `outputs`: the derivative, by what it starts from, of the backward pass J' u."""
    if not outputs.requires_grad:
        return torch.zeros_like(outputs)
    start = torch.zeros_like(outputs, requires_grad=True)
    back = torch.autograd.grad(outputs, inputs, start, create_graph=True, allow_unused=True)
    pairs = zip(back, directions, strict=True)
    along = [(slope * direction).sum() for slope, direction in pairs if slope is not None]
    return torch.autograd.grad(torch.stack(along).sum(), start)[0]


def fisher_along(
    head: Callable[[Tensor], Tensor],
    states: Tensor,
    weights: Sequence[Tensor],
    direction: Tensor,
    *,
    temperature: float,
    vocabulary: int,
) -> Tensor:
    """J' F J v, summed over N tokens: the second derivative along v of KL(p || p') where p' is p.

    p = softmax(head(states) / temperature), J = derivative of the logits by all weights, and
    F = (diag(p) - p p') / temperature^2. The logits' own second derivative drops out, for the KL's first one
    is 0 there. Logits are made for some rows at a time.
    """
    directions, found = shaped(direction, weights), [torch.zeros_like(weight) for weight in weights]
    moved, back = derivative_along(states, weights, directions), torch.zeros_like(states)
    rows = max(1, rows_at_once(vocabulary) // 4)  # some six tensors of their size are alive together
    for some in (slice(start, start + rows) for start in range(0, len(states), rows)):
        leaf = states[some].detach().requires_grad_()
        logits = head(leaf)
        change = derivative_along(logits, [leaf, *weights], [moved[some], *directions]).float()
        shares = torch.softmax(logits.detach().float() / temperature, -1)
        change = change.sub_((shares * change).sum(-1, keepdim=True)).mul_(shares).div_(temperature**2)
        back[some], *own = torch.autograd.grad(
            logits, [leaf, *weights], change.to(logits.dtype), allow_unused=True
        )
        add_to(found, own)
    if states.requires_grad:
        add_to(found, torch.autograd.grad(states, weights, back, allow_unused=True))
    return flatten(found)


def add_to(sums: Sequence[Tensor], parts: Sequence[Tensor | None]) -> None:
    for whole, part in zip(sums, parts, strict=True):
        if part is not None:
            whole += part
