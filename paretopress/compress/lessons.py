"""The batches that candidates are trained on, with the teacher's logits: the same for every candidate, drawn and computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from paretopress.errors import RecoveryError
from paretopress.fetch import fetch

KEPT_BYTES = 1 << 30
_EPOCH_SEED, _BATCH_SEED = 7_919, 1_000_003


class Lessons:
    """Batch k of a seed is a function of (seed, k) alone, augmentation included, so candidates differ by their plans and not by luck.

    Batches are kept in memory up to `kept_bytes`, the teacher's logits up to a quarter of that. The process's random state is left as
    it was.
    """

    def __init__(
        self,
        teacher: nn.Module,
        train: Dataset[tuple[Tensor, int]],
        batch_size: int,
        device: torch.device,
        *,
        bf16: bool,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._teacher, self._train, self._device, self._bf16 = teacher, train, device, bf16
        self._images: int = len(train)  # type: ignore[arg-type]  # Dataset declares no length
        self._size = min(batch_size, self._images)
        self._batches: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._logits: dict[tuple[int, int], Tensor] = {}
        # logits are small, and a batch made again is the same: they are kept for more batches than images are
        self._left_bytes, self._left_logit_bytes = kept_bytes, kept_bytes // 4
        self._order: tuple[tuple[int, int], Tensor] | None = None

    def images(self, seed: int) -> Iterator[Tensor]:
        """Yield the images (N, C, H, W) of batch after batch, without end."""
        return (self._batch(seed, k)[0] for k in itertools.count())

    def lessons(self, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield images (N, C, H, W), labels (N,) and the teacher's logits (N, classes) float32 from batch `start` on, without end."""
        for k in itertools.count(start):
            x, y = self._batch(seed, k)
            yield x, y, self._teacher_logits(seed, k, x)

    def _batch(self, seed: int, k: int) -> tuple[Tensor, Tensor]:
        if (seed, k) in self._batches:
            return self._batches[seed, k]
        epoch, position = divmod(k, self._images // self._size)
        indices = self._shuffled(seed, epoch)[position * self._size : (position + 1) * self._size].tolist()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed * _BATCH_SEED + k)
                x, y = default_collate(fetch(self._train, indices))
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise RecoveryError(f"the training data must load, but got {type(error).__name__}: {str(error).splitlines()[0]}") from error
        made = (x.to(self._device).contiguous(memory_format=torch.channels_last), torch.as_tensor(y).long().to(self._device))
        size_bytes = made[0].nbytes + made[1].nbytes
        if size_bytes <= self._left_bytes:
            self._left_bytes -= size_bytes
            self._batches[seed, k] = made
        return made

    def _teacher_logits(self, seed: int, k: int, x: Tensor) -> Tensor:
        known = self._logits.get((seed, k))
        if known is not None:
            return known
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self._teacher(x).float()
        if logits.nbytes <= self._left_logit_bytes:
            self._left_logit_bytes -= logits.nbytes
            self._logits[seed, k] = logits
        return logits

    def _shuffled(self, seed: int, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != (seed, epoch):
            generator = torch.Generator().manual_seed(seed * _EPOCH_SEED + epoch)
            self._order = ((seed, epoch), torch.randperm(self._images, generator=generator))
        return self._order[1]
