"""Training batches with the teacher's outputs: drawn and computed once, the same for every candidate."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from paretopress.core.model_inputs import Inputs, arrays, channels_last, like, outputs_of, tensors
from paretopress.errors import RecoveryError, typed_line, users_line
from paretopress.system.arrays_on_disk import Array, ArraysOnDisk
from paretopress.system.batch_loading import Item, collate, load_items
from paretopress.system.read_ahead import processes_to_read, read_ahead
from paretopress.system.seeding import seeded

KEPT_BYTES = 1 << 30
# batches that take longer to read are read ahead, if so many of them are to come
_SLOW_S, _FEWEST_AHEAD = 0.02, 8
_logger = logging.getLogger("paretopress")
_EPOCH_SEED, _BATCH_SEED = 7_919, 1_000_003


class DistillationBatches:
    """Batch k of a seed is a function of (seed, k) alone, augmentation included, so candidates differ by their plans and not by luck.

    Batches are kept in memory up to `kept_bytes`, the teacher's outputs up to a quarter of that; further ones in a nameless file in
    `folder`, if it is given. The process's random state is left as it was.
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
        folder: Path | None = None,
    ) -> None:
        self._teacher, self._train, self._device, self._bf16 = teacher, train, device, bf16
        self._images: int = len(train)  # type: ignore[arg-type]  # Dataset declares no length
        self._size = min(batch_size, self._images)
        self._batches: dict[tuple[int, int], tuple[Inputs, Tensor]] = {}
        self._outputs: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        # outputs are small as a rule, and a batch made again is the same: they are kept for more batches than images are
        self._left_bytes, self._left_output_bytes = kept_bytes, kept_bytes // 4
        self._disk = ArraysOnDisk(folder)
        self._on_disk: dict[tuple[int, int], tuple[tuple[Array, ...], Tensor]] = {}
        self._order: tuple[tuple[int, int], Tensor] | None = None
        self._read_s, self._batch_bytes = 0.0, 0  # of the last batch that was read here
        self.reads_ahead = True

    def inputs(self, seed: int) -> Iterator[Inputs]:
        """Yield the inputs of batch after batch, without end."""
        return (self._batch(seed, k)[0] for k in itertools.count())

    def taught_batches(self, seed: int, start: int) -> Iterator[tuple[Inputs, Tensor, tuple[Tensor, ...]]]:
        """Yield inputs, labels (N, ...) and the teacher's outputs float32 from batch `start` on, without end."""
        for k in itertools.count(start):
            yield self._taught(seed, k, self._batch(seed, k))

    @contextmanager
    def reading(self, seed: int, start: int, count: int, around: Callable[[], AbstractContextManager[None]]) -> Iterator[Reading]:
        """Yield what hands out `count` batches from `start` on, which are read ahead in the block where reading them is slow.

        `around` is entered for each reading in another process; see `read_ahead`.
        """
        if count >= _FEWEST_AHEAD and not self._read_s:
            with around():
                self._batch(seed, start)
        missing = [k for k in range(start, start + count) if (seed, k) not in self._batches and (seed, k) not in self._on_disk]
        slow = self.reads_ahead and len(missing) >= _FEWEST_AHEAD and self._read_s > _SLOW_S
        processes = processes_to_read(self._batch_bytes) if slow else 0
        if not processes:
            yield Reading(self, seed, start, {})
            return
        with read_ahead(partial(self._read, seed), missing, processes, around) as arriving:
            yield Reading(self, seed, start, dict.fromkeys(missing, arriving))

    def _taught(self, seed: int, k: int, batch: tuple[Inputs, Tensor]) -> tuple[Inputs, Tensor, tuple[Tensor, ...]]:
        return *batch, self._teacher_outputs(seed, k, batch[0])

    def _batch(self, seed: int, k: int) -> tuple[Inputs, Tensor]:
        """Return a batch as it is kept, or read now."""
        kept, written = self._batches.get((seed, k)), self._on_disk.get((seed, k))
        if kept is not None:
            return kept
        if written is not None:
            parts, y = written
            return self._placed(tuple(map(torch.from_numpy, parts)) if len(parts) > 1 else torch.from_numpy(parts[0]), y)
        began = time.monotonic()
        read = self._read(seed, k)
        self._read_s = time.monotonic() - began
        return self._kept(seed, k, read)

    def _read(self, seed: int, k: int) -> tuple[Inputs, Tensor]:
        """Return a batch on the CPU. Raises: RecoveryError: the data set fails."""
        epoch, position = divmod(k, self._images // self._size)
        indices = self._shuffled(seed, epoch)[position * self._size : (position + 1) * self._size].tolist()
        try:
            with seeded(seed * _BATCH_SEED + k):
                return collate(load_items(self._train, indices))
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise RecoveryError(f"the training data must load, but got {typed_line(error)}{users_line(error)}") from error

    def _kept(self, seed: int, k: int, read: tuple[Inputs, Tensor]) -> tuple[Inputs, Tensor]:
        """Return a batch where it is trained on, which is kept in memory or on the disk if there is room."""
        made = self._placed(*read)
        self._batch_bytes = sum(part.nbytes for part in (*tensors(made[0]), made[1]))
        if self._batch_bytes <= self._left_bytes:
            self._left_bytes -= self._batch_bytes
            self._batches[seed, k] = made
        elif (written := self._disk.take(arrays(read[0]))) is not None:
            self._on_disk[seed, k] = written, read[1]
        return made

    def _placed(self, x: Inputs, y: Tensor) -> tuple[Inputs, Tensor]:
        return like(x, (channels_last(part.to(self._device)) for part in tensors(x))), y.to(self._device)

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


class Reading:
    """Hands out one batch after another; `arriving` says which of them come from other processes."""

    def __init__(self, batches: DistillationBatches, seed: int, start: int, arriving: dict[int, Iterator[tuple[Inputs, Tensor]]]) -> None:
        self._batches, self._seed, self._next, self._arriving = batches, seed, start, arriving
        self._arrived: tuple[Inputs, Tensor] | None = None

    def wait(self) -> None:
        """Wait for the next batch, if another process reads it; where that died, batches are read here from then on.

        Raises: RecoveryError: the data set fails.
        """
        source = self._arriving.pop(self._next, None)
        if source is None:
            return
        try:
            x, y = next(source)
        except RuntimeError as error:
            _logger.warning("paretopress: training data are read in this process from now on, for another %s", typed_line(error))
            self._arriving.clear()
            self._batches.reads_ahead = False
            return
        # what is kept lies in this process: shared memory is scarce, and each tensor there holds a file open
        self._arrived = self._batches._kept(self._seed, self._next, (like(x, (part.clone() for part in tensors(x))), y.clone()))

    def taught(self) -> tuple[Inputs, Tensor, tuple[Tensor, ...]]:
        """Return the inputs, labels (N, ...) and the teacher's outputs of the next batch; what no other process reads is read now."""
        k, self._next = self._next, self._next + 1
        batch, self._arrived = self._arrived or self._batches._batch(self._seed, k), None
        return self._batches._taught(self._seed, k, batch)
