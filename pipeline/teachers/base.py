"""The multimodal teacher (eq. 3-9): visual encoder, cross-modal alignment, predictive decoder.

A teacher writes `encode` and `decode` on normalised fields; this base class adds the normalisation and the
text. Source: S2-KD, section "Multimodal Privileged Teacher". A text-free teacher (`text_width=None`), FitNet's and
the control's, is the same but for its alignment, which attends from the visual tokens to themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.batch import Text
from pipeline.errors import UserError
from pipeline.layers import Normaliser
from pipeline.models import Problem, Sizes, load_built, save_built


class TeacherOutput(NamedTuple):
    """forecast: (B, T_out, C, H, W), physical units. fused: (B, L, D), the Z_fused of eq. 9."""

    forecast: Tensor
    fused: Tensor


class Teacher(nn.Module, ABC):
    """Built for a problem; `latent_width` (D) and `latent_grid` (h, w) describe Z_v, with L = h * w."""

    Sizes: ClassVar[type[Sizes]]
    latent_width: int
    latent_grid: tuple[int, int]

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem
        self.normaliser = Normaliser(problem.variables)

    def add_alignment(self, text_width: int | None, layers: int, heads: int) -> None:
        """Adds the alignment module, text-free without a `text_width`; called once the latent width is known."""
        self.alignment = CrossModalAlignment(self.latent_width, text_width, layers, heads)

    @abstractmethod
    def encode(self, scores: Tensor) -> tuple[Tensor, Any]:
        """(B, T_in, C, H, W) normalised fields -> Z_v (B, D, h, w) of eq. 3, and what the decoder needs besides."""

    @abstractmethod
    def decode(self, fused: Tensor, skip: Any) -> Tensor:
        """Z_fused (B, D, h, w) and the encoder's skip -> (B, T_in, C, H, W) normalised fields."""

    def forward(self, inputs: Tensor, text: Text | None) -> TeacherOutput:
        """inputs: (B, T_in, C, H, W), physical units. text: None for a text-free teacher, and only for it.

        A horizon longer than T_in is reached by feeding the forecast back, a shorter one by cutting, as SimVP
        does; Z_fused is that of the first pass. Raises ValueError if text is missing or not expected.
        """
        scores = self.normaliser(inputs)
        frames: list[Tensor] = []
        first: Tensor | None = None
        while sum(part.shape[1] for part in frames) < self.problem.t_out:
            scores, fused = self._step(scores, text)
            frames.append(scores)
            first = fused if first is None else first
        assert first is not None
        forecast = torch.cat(frames, dim=1)[:, : self.problem.t_out]
        return TeacherOutput(self.normaliser.inverse(forecast), first)

    def _step(self, scores: Tensor, text: Text | None) -> tuple[Tensor, Tensor]:
        latent, skip = self.encode(scores)
        tokens = latent.flatten(2).transpose(1, 2)  # (B, L, D)
        fused = self.alignment(tokens, text)
        frames = self.decode(fused.transpose(1, 2).reshape(latent.shape), skip)
        return (scores[:, -1:] + frames if self.problem.residual else frames), fused


class CrossModalAlignment(nn.Module):
    """N blocks of cross-attention from visual tokens to text tokens, eq. 5-9.

    As the paper has it: queries from Z_v, keys and values from Z_s, a residual connection, then LayerNorm
    (post-norm), no feed-forward. Z_s is brought to width D once and is not changed by the blocks. Text-free
    (`text_width` None), Z_v takes the place of Z_s: the same blocks, without the text's projection.
    """

    def __init__(self, width: int, text_width: int | None, layers: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"train_teacher.fusion_heads = {heads} does not divide the latent width {width}")
        self.text_projection = None if text_width is None else nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(CrossAttention(width, heads) for _ in range(layers))

    def forward(self, visual: Tensor, text: Text | None) -> Tensor:
        """visual: (B, L_v, D) -> Z_fused (B, L_v, D)."""
        if text is None or self.text_projection is None:
            return self._text_free(visual, text)
        semantic = self.text_projection(text.tokens.to(visual.dtype))
        for block in self.blocks:
            visual = block(visual, semantic, text.mask)
        return visual

    def _text_free(self, visual: Tensor, text: Text | None) -> Tensor:
        if self.text_projection is not None:
            raise ValueError("this teacher was built with text and was given none")
        if text is not None:
            raise ValueError("this teacher is text-free and was given text")
        for block in self.blocks:
            visual = block(visual, visual, None)
        return visual


class CrossAttention(nn.Module):
    """One block: LayerNorm(Z_v + MHA(Q, K, V)), eq. 5-9."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, visual: Tensor, semantic: Tensor, mask: Tensor | None) -> Tensor:
        """visual: (B, L_v, D); semantic: (B, L_s, D); mask: (B, L_s) bool, False positions are not attended."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(visual)),
            self._split(self.key(semantic)),
            self._split(self.value(semantic)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        normed: Tensor = self.norm(visual + self.output(attended.transpose(1, 2).flatten(2)))
        return normed

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (B, heads, L, D / heads)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def build(
    name: str, problem: Problem, sizes: dict[str, Any], text_width: int | None, layers: int, heads: int
) -> Teacher:
    """A fresh teacher by name, text-free if `text_width` is None; raises UserError for an unknown name or size."""
    from pipeline import models
    from pipeline.teachers import TEACHERS

    kind = TEACHERS.load(name)
    teacher: Teacher = kind(problem, models.sizes(kind, sizes, f"train_teacher.sizes.{name}"))
    teacher.add_alignment(text_width, layers, heads)
    return teacher


def save_teacher(teacher: Teacher, folder: Path, **arguments: Any) -> None:
    """`arguments`: what `build` was called with, apart from the problem."""
    save_built(teacher, folder, arguments)


def load(folder: Path) -> Teacher:
    """The teacher in `folder`, in eval mode; raises UserError if there is none or it does not fit."""
    teacher: Teacher = load_built(folder, build)
    return teacher
