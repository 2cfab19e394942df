"""Requests are computed together, and each gets its own answer or its own error."""

import asyncio
import time

import numpy as np
import pytest
from serving.fakes import FakeBundle

from supcon_tf.serving import metrics
from supcon_tf.serving.batching import Batcher
from supcon_tf.serving.faults import BusyError, RequestError, ServerFailedError
from supcon_tf.serving.instances import Instance

PIXELS = [Instance(np.full((2, 2, 3), level, np.uint8), 4) for level in range(0, 256, 15)]


def run(test, **settings):
    """Runs `test(batcher)` in an event loop; nothing may be left waiting."""

    async def main():
        batcher = Batcher(**{"max_batch_size": 8, "max_queue": 64, **settings})
        try:
            return await asyncio.wait_for(test(batcher), 20)
        finally:
            assert batcher.queued == 0
            batcher.close()

    return asyncio.run(main())


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("did not happen")


def light(rows):
    return [float(row["probabilities"][1]) for row in rows]


def test_rows_come_in_the_order_of_the_instances():
    bundle = FakeBundle()
    rows = run(lambda batcher: batcher.run(bundle, PIXELS), max_batch_size=4)
    np.testing.assert_allclose(light(rows), [level / 255 for level in range(0, 256, 15)], 1e-6)
    assert sum(bundle.batches) == len(PIXELS)
    assert max(bundle.batches) <= 4
    assert [row["class_name"] for row in rows] == ["dark"] * 9 + ["light"] * 9


def test_neighbors_are_found_for_those_who_ask():
    bundle = FakeBundle()

    async def test(batcher):
        bundle.may_go_on.clear()
        first = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await until(lambda: bundle.batches)
        plain = asyncio.create_task(batcher.run(bundle, PIXELS[1:3]))
        asking = asyncio.create_task(batcher.run(bundle, PIXELS[3:5], wants_neighbors=True))
        await until(lambda: len(batcher._queue) == 4)
        bundle.may_go_on.set()
        return await asyncio.gather(first, plain, asking)

    _, plain, asking = run(test)
    assert bundle.batches == [1, 4]
    assert "neighbor_ids" not in plain[0]
    ood = [float(row["out_of_distribution"]) for row in asking]
    np.testing.assert_allclose(ood, [45 / 255, 60 / 255], 1e-6)


def test_a_bad_instance_fails_its_own_request_only():
    bundle = FakeBundle()

    async def test(batcher):
        bundle.may_go_on.clear()
        first = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await until(lambda: bundle.batches)
        good = asyncio.create_task(batcher.run(bundle, PIXELS[1:4]))
        bad = asyncio.create_task(
            batcher.run(bundle, [PIXELS[4], Instance(b"bad", 4), Instance(b"bad again", 4)])
        )
        await until(lambda: len(batcher._queue) == 4)
        bundle.may_go_on.set()
        return await asyncio.gather(first, good, bad, return_exceptions=True)

    _, good, bad = run(test)
    assert len(good) == 3
    assert isinstance(bad, RequestError)
    assert bad.message == "instance 1: the bytes are not an image."


@pytest.mark.parametrize("wants_neighbors", [False, True])
def test_an_image_for_which_the_model_gives_nan_fails_alone(caplog, wants_neighbors):
    bundle = FakeBundle()
    bundle.gives_nan_from = 0.99

    async def test(batcher):
        bundle.may_go_on.clear()
        first = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await until(lambda: bundle.batches)
        good = asyncio.create_task(batcher.run(bundle, PIXELS[1:4], wants_neighbors))
        bad = asyncio.create_task(batcher.run(bundle, PIXELS[-1:], wants_neighbors))
        await until(lambda: len(batcher._queue) == 4)
        bundle.may_go_on.set()
        with pytest.raises(ServerFailedError, match="outputs are not finite for this image"):
            await bad
        return await asyncio.gather(first, good)

    _, good = run(test)
    np.testing.assert_allclose(light(good), [15 / 255, 30 / 255, 45 / 255], 1e-6)
    assert "1 of 4 images: the model's outputs are not finite" in caplog.text


def test_a_failure_of_the_model_fails_its_batch_and_is_logged(caplog):
    bundle = FakeBundle()

    async def test(batcher):
        bundle.fails = True
        with pytest.raises(ServerFailedError, match="the server's log says why"):
            await batcher.run(bundle, PIXELS[:3])
        bundle.fails = False
        return await batcher.run(bundle, PIXELS[:3])

    assert len(run(test)) == 3
    assert "the model failed on a batch of" in caplog.text
    assert "RuntimeError: model" in caplog.text


def test_a_decoder_that_breaks_is_not_the_requests_fault(caplog):
    async def test(batcher):
        await batcher.run(FakeBundle(), [Instance(b"crash", 4)])

    with pytest.raises(ServerFailedError, match="instance 0 could not be decoded"):
        run(test)
    assert "RuntimeError: decoder" in caplog.text


def test_a_full_queue_is_told_at_once():
    bundle = FakeBundle()

    async def test(batcher):
        bundle.may_go_on.clear()
        running = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await until(lambda: bundle.batches)
        assert batcher.queued == 0  # What is being computed waits no more.
        waiting = asyncio.create_task(batcher.run(bundle, PIXELS[:3]))
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(
            BusyError, match=r"3 images are already waiting; at most 4 may \(max_queue\)"
        ):
            await batcher.run(bundle, PIXELS[:2])
        assert time.monotonic() - began < 0.1
        last = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await asyncio.sleep(0)
        assert metrics.QUEUE._value.get() == 4
        bundle.may_go_on.set()
        await asyncio.gather(running, waiting, last)

    run(test, max_queue=4)


def test_versions_never_share_a_batch():
    old, new = FakeBundle(1), FakeBundle(2)

    async def test(batcher):
        old.may_go_on.clear()
        first = asyncio.create_task(batcher.run(old, PIXELS[:1]))
        await until(lambda: old.batches)
        mixed = [
            asyncio.create_task(batcher.run(old if at % 2 else new, PIXELS[at : at + 1]))
            for at in range(6)
        ]
        await until(lambda: len(batcher._queue) == 6)
        old.may_go_on.set()
        await first
        return await asyncio.gather(*mixed)

    found = run(test)
    assert [row["embeddings"][1] for [row] in found] == [2, 1, 2, 1, 2, 1]
    assert old.batches == [1, 3]
    assert new.batches == [3]


def test_a_client_that_goes_away_leaves_nothing():
    bundle = FakeBundle()

    async def test(batcher):
        bundle.may_go_on.clear()
        first = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await until(lambda: bundle.batches)
        gone = asyncio.create_task(batcher.run(bundle, PIXELS[:5]))
        at_once = asyncio.create_task(batcher.run(bundle, PIXELS[:5]))
        await asyncio.sleep(0)
        at_once.cancel()  # Before anything of it is decoded.
        await until(lambda: len(batcher._queue) >= 5)
        gone.cancel()
        first.cancel()  # While it is computed.
        done = await asyncio.gather(first, gone, at_once, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in done)
        assert batcher.queued == 0
        bundle.may_go_on.set()
        await batcher.run(bundle, PIXELS[:2])

    run(test)
    assert sum(bundle.batches) == 3  # None of those who went away was computed, but the first.


def test_a_batch_waits_only_if_asked_to():
    bundle = FakeBundle()

    async def test(batcher):
        began = time.monotonic()
        first = asyncio.create_task(batcher.run(bundle, PIXELS[:1]))
        await asyncio.sleep(0.05)
        await batcher.run(bundle, PIXELS[1:3])
        await first
        return time.monotonic() - began

    assert run(test, wait_seconds=0.5) >= 0.5
    assert bundle.batches == [3]
    bundle.batches.clear()
    assert run(test, wait_seconds=5, max_batch_size=3) < 3  # It is full.
    assert bundle.batches == [3]
    bundle.batches.clear()
    run(test)
    assert bundle.batches[0] == 1


def test_large_images_are_decoded_one_at_a_time():
    class Watched(FakeBundle):
        at_once = most = 0

        def decode(self, encoded):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            time.sleep(0.02)
            self.at_once -= 1
            return super().decode(encoded)

    large = Instance(b"image", 3000 * 3000)
    bundle = Watched()
    run(lambda batcher: batcher.run(bundle, [large] * 6))
    assert bundle.most == 1
