"""Classifies requests in flight together, so that none of them fails because of another."""

import asyncio
import collections
import dataclasses
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from supcon_tf.core.errors import UserError
from supcon_tf.exporting.finite import NotFiniteError
from supcon_tf.serving import metrics
from supcon_tf.serving.faults import BusyError, RequestError, ServerFailedError
from supcon_tf.serving.instances import Instance
from supcon_tf.serving.query import Row

_BIG_PIXELS = 2**22  # Larger images are decoded one at a time, so that memory stays bounded.
_log = logging.getLogger("supcon_tf.serving")


@dataclasses.dataclass(eq=False)
class _Waiting:
    """One image in progress; `result` becomes its row, or the reason why there is none."""

    bundle: Any
    wants_neighbors: bool
    result: asyncio.Future
    arrived: float
    image: np.ndarray | None = None  # As the encoder takes it: float32 [S, S, 3].
    counted: bool = True


class Batcher:
    """Decodes images one by one and classifies those that wait together.

    While one batch is computed the next one gathers, so that no request waits for a batch to fill,
    unless `wait_seconds` says so. All methods are called from one event loop.

    Args:
        max_batch_size: images computed at once.
        max_queue: images that may wait; a request beyond that is refused at once.
        wait_seconds: how long a batch that is not full waits for more.
    """

    def __init__(self, max_batch_size: int, max_queue: int, wait_seconds: float = 0.0):
        self._max_batch_size, self._max_queue = max_batch_size, max_queue
        self._wait_seconds = wait_seconds
        self._queue: collections.deque[_Waiting] = collections.deque()
        self.queued = 0  # Images that are being decoded, or wait for a batch to take them.
        self._worker: asyncio.Task | None = None
        self._model = ThreadPoolExecutor(1, "model")
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "decode")
        self._big_decoder = ThreadPoolExecutor(1, "decode-big")

    async def run(
        self, bundle: Any, instances: Sequence[Instance], wants_neighbors: bool = False
    ) -> list[Row]:
        """Classifies the instances of one request.

        Args:
            bundle: an `exporting.bundle.Bundle`, even if another version is served by then.
            instances: one for each image.
            wants_neighbors: whether the nearest training images are requested too.

        Returns:
            One row per instance: values of `Bundle.classify` and `Bundle.nearest`, by name.

        Raises:
            RequestError: if one of them is not an image, the model fails on a batch that has one of
                them, or the queue has no room for all of them (`BusyError`).
        """
        loop = asyncio.get_running_loop()
        if self.queued + len(instances) > self._max_queue:
            raise BusyError(
                f"{self.queued} images are already waiting; at most {self._max_queue} "
                "may (max_queue)."
            )
        waiting = [
            _Waiting(bundle, wants_neighbors, loop.create_future(), loop.time()) for _ in instances
        ]
        self._count(len(waiting))
        tasks = [
            self._one(item, instance, f"instance {index}")
            for index, (item, instance) in enumerate(zip(waiting, instances, strict=True))
        ]
        try:
            found = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for item in waiting:  # Of a request that was cancelled before its tasks began.
                self._uncount(item)
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found

    def close(self) -> None:
        """Ends the threads once they are idle."""
        for pool in (self._model, self._decoders, self._big_decoder):
            pool.shutdown(wait=False)

    def _count(self, images: int) -> None:
        self.queued += images
        metrics.QUEUE.set(self.queued)

    def _uncount(self, item: _Waiting) -> None:
        if item.counted:
            item.counted = False
            self._count(-1)

    async def _one(self, item: _Waiting, instance: Instance, where: str) -> Row:
        try:
            item.image = await self._prepare(item.bundle, instance, where)
            self._queue.append(item)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
            return await item.result
        finally:
            self._uncount(item)

    async def _prepare(self, bundle: Any, instance: Instance, where: str) -> np.ndarray:
        decoder = self._big_decoder if instance.pixels > _BIG_PIXELS else self._decoders
        prepare = bundle.decode if isinstance(instance.content, bytes) else bundle.scale
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(decoder, prepare, instance.content)
        except UserError as error:
            raise RequestError(f"{where}: {error}") from error
        except Exception as error:
            _log.exception("%s could not be decoded", where)
            raise ServerFailedError(f"{where} could not be decoded") from error

    async def _work(self) -> None:
        """Computes batches until none waits."""
        while self._queue:
            await self._gather()
            if batch := self._take():
                await self._compute(batch)

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        until = self._queue[0].arrived + self._wait_seconds
        while len(self._queue) < self._max_batch_size and (left := until - loop.time()) > 0:
            await asyncio.sleep(min(left, 0.001))

    def _take(self) -> list[_Waiting]:
        """The images of one version that have waited longest, perhaps fewer than a batch."""
        batch, others = [], []
        while self._queue and len(batch) < self._max_batch_size:
            item = self._queue.popleft()
            if item.result.done():  # Nobody waits for it any more.
                continue
            same = not batch or item.bundle is batch[0].bundle
            (batch if same else others).append(item)
        self._queue.extendleft(reversed(others))
        for item in batch:
            self._uncount(item)
        return batch

    async def _compute(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(self._model, _classify_finite, batch)
        except Exception:
            _log.exception("the model failed on a batch of %d images", len(batch))
            rows = [ServerFailedError("the model failed on this batch")] * len(batch)
        for item, row in zip(batch, rows, strict=True):
            if item.result.done():
                continue
            if isinstance(row, Exception):
                item.result.set_exception(row)
            else:
                item.result.set_result(row)


def _classify_finite(batch: Sequence[_Waiting]) -> list[Row | Exception]:
    """The rows of a batch; a fault for those images for which the model gives NaN."""
    try:
        return _classify(batch)
    except NotFiniteError as error:
        _log.error("%d of %d images: %s", len(error.rows), len(batch), error)
        bad = set(error.rows)
        left = [item for index, item in enumerate(batch) if index not in bad]
        rows = iter(_classify(left) if left else ())
        fault = ServerFailedError("the model's outputs are not finite for this image")
        return [fault if index in bad else next(rows) for index in range(len(batch))]


def _classify(batch: Sequence[_Waiting]) -> list[Row]:
    bundle = batch[0].bundle
    found = bundle.classify(np.stack([item.image for item in batch]))
    rows = _rows(found, len(batch))
    wanted = [index for index, item in enumerate(batch) if item.wants_neighbors]
    if wanted:
        try:
            nearest = _rows(bundle.nearest(found["embeddings"][wanted]), len(wanted))
        except NotFiniteError as error:
            error.rows = [wanted[row] for row in error.rows]
            raise
        for index, row in zip(wanted, nearest, strict=True):
            rows[index].update(row)
    metrics.BATCHES.observe(len(batch))
    metrics.IMAGES.inc(len(batch))
    return rows


def _rows(found: dict[str, Any], count: int) -> list[Row]:
    return [{name: values[index] for name, values in found.items()} for index in range(count)]
