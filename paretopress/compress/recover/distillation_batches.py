"""Training batches with the teacher's outputs: drawn and computed once, the same for every candidate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from paretopress.core.model_inputs import Inputs, channels_last, like, outputs_of, tensors
from paretopress.errors import RecoveryError, typed_line, users_line
from paretopress.system.batch_loading import Item, collate, load_items
from paretopress.system.seeding import seeded

KEPT_BYTES = 1 << 30
_EPOCH_SEED, _BATCH_SEED = 7_919, 1_000_003


class DistillationBatches:
    """Batch k of a seed is a function of (seed, k) alone, augmentation included, so candidates differ by their plans and not by luck.

    Batches are kept in memory up to `kept_bytes`, the teacher's outputs up to a quarter of that. The process's random state is left as
    it was.
    """

    def __init__(
        self,
        teacher: nn.Module,
        train: Dataset[Item],
        batch_size: int,
        device: torch.device,
        *,
        bf16: bool,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._teacher, self._train, self._device, self._bf16 = teacher, train, device, bf16
        self._images: int = len(train)  # type: ignore[arg-type]  # Dataset declares no length
        self._size = min(batch_size, self._images)
        self._batches: dict[tuple[int, int], tuple[Inputs, Tensor]] = {}
        self._outputs: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        # outputs are small as a rule, and a batch made again is the same: they are kept for more batches than images are
        self._left_bytes, self._left_output_bytes = kept_bytes, kept_bytes // 4
        self._order: tuple[tuple[int, int], Tensor] | None = None

    def inputs(self, seed: int) -> Iterator[Inputs]:
        """Yield the inputs of batch after batch, without end."""
        return (self._batch(seed, k)[0] for k in itertools.count())

    def taught_batches(self, seed: int, start: int) -> Iterator[tuple[Inputs, Tensor, tuple[Tensor, ...]]]:
        """Yield inputs, labels (N, ...) and the teacher's outputs float32 from batch `start` on, without end."""
        for k in itertools.count(start):
            x, y = self._batch(seed, k)
            yield x, y, self._teacher_outputs(seed, k, x)

    def _batch(self, seed: int, k: int) -> tuple[Inputs, Tensor]:
        if (seed, k) in self._batches:
            return self._batches[seed, k]
        epoch, position = divmod(k, self._images // self._size)
        indices = self._shuffled(seed, epoch)[position * self._size : (position + 1) * self._size].tolist()
        try:
            with seeded(seed * _BATCH_SEED + k):
                x, y = collate(load_items(self._train, indices))
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise RecoveryError(f"the training data must load, but got {typed_line(error)}{users_line(error)}") from error
        made = like(x, (channels_last(part.to(self._device)) for part in tensors(x))), y.to(self._device)
        size_bytes = sum(part.nbytes for part in (*tensors(made[0]), made[1]))
        if size_bytes <= self._left_bytes:
            self._left_bytes -= size_bytes
            self._batches[seed, k] = made
        return made

    def _teacher_outputs(self, seed: int, k: int, x: Inputs) -> tuple[Tensor, ...]:
        known = self._outputs.get((seed, k))
        if known is not None:
            return known
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            outputs = tuple(part.float() for part in outputs_of(self._teacher(*tensors(x))))
        size_bytes = sum(part.nbytes for part in outputs)
        if size_bytes <= self._left_output_bytes:
            self._left_output_bytes -= size_bytes
            self._outputs[seed, k] = outputs
        return outputs

    def _shuffled(self, seed: int, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != (seed, epoch):
            generator = torch.Generator().manual_seed(seed * _EPOCH_SEED + epoch)
            self._order = ((seed, epoch), torch.randperm(self._images, generator=generator))
        return self._order[1]
