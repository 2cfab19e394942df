import numpy as np
import pytest
import tensorflow as tf
from conftest import write_images

from supcon_tf import AUGMENTATIONS, Augmentation, open_dataset, training_views
from supcon_tf.data.augment import Share
from supcon_tf.data.images import decode


def stream(dataset, augmentation=AUGMENTATIONS["symbols"], **changes):
    settings = {"num_views": 2, "batch_size": 100, "epochs": 3, "seed": 7, **changes}
    return training_views(dataset, augmentation=augmentation, **settings)


def batches(*arguments, **changes):
    return list(stream(*arguments, **changes).as_numpy_iterator())


def test_shapes_and_dropped_remainder(digits):
    found = batches(digits, num_views=3, epochs=2)
    assert len(found) == 2 * 13
    views, labels = found[0]
    assert views.shape == (100, 3, 8, 8, 3)
    assert labels.shape == (100,)
    assert (views.dtype, labels.dtype) == (np.float32, np.int64)
    assert stream(digits).element_spec[0].shape == (100, 2, 8, 8, 3)


def test_a_later_start_continues_the_stream(digits):
    whole, rest = batches(digits), batches(digits, first_step=13)
    assert len(rest) == 26
    for (views, labels), (views_again, labels_again) in zip(whole[13:], rest, strict=True):
        np.testing.assert_array_equal(views, views_again)
        np.testing.assert_array_equal(labels, labels_again)


def test_a_start_within_an_epoch_continues_the_stream(digits):
    whole, rest = batches(digits), batches(digits, first_step=20)
    assert len(rest) == 19
    for (views, labels), (views_again, labels_again) in zip(whole[20:], rest, strict=True):
        np.testing.assert_array_equal(views, views_again)
        np.testing.assert_array_equal(labels, labels_again)


@pytest.mark.parametrize(
    ("name", "of_one_size"),
    [
        ("cifar", False),
        ("strong", True),
        pytest.param("imagenet", False, marks=pytest.mark.slow),
        pytest.param("cifar", True, marks=pytest.mark.slow),
        pytest.param("imagenet", True, marks=pytest.mark.slow),
        pytest.param("strong", False, marks=pytest.mark.slow),
    ],
)
def test_the_shares_of_workers_make_up_the_batch_of_one(digits, tmp_path, name, of_one_size):
    """Both ways of cropping: images of one size, and a folder."""
    dataset, batch_size = digits, 120
    if not of_one_size:
        write_images(tmp_path, ["dark", "light"], 20, size=(40, 30))
        dataset, batch_size = open_dataset(f"folder:{tmp_path}", image_size_px=24), 12
    settings = {"augmentation": AUGMENTATIONS[name], "batch_size": batch_size, "epochs": 2}
    whole = batches(dataset, **settings)
    shares = [batches(dataset, share=Share(index, 3), **settings) for index in range(3)]
    assert len(whole) == len(shares[0]) > 2
    for (views, labels), *parts in zip(whole, *shares, strict=True):
        joined = np.concatenate([part[0] for part in parts])
        np.testing.assert_allclose(joined, views, atol=2e-6)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)


@pytest.mark.parametrize("global_seed", [0, 5])
def test_the_callers_global_seed_does_not_matter(digits, global_seed):
    before = batches(digits, epochs=1)[0]
    tf.random.set_seed(global_seed)
    after = batches(digits, epochs=1)[0]
    np.testing.assert_array_equal(before[0], after[0])


def test_epochs_and_seeds_differ(digits):
    found = batches(digits)
    assert not np.array_equal(found[0][1], found[13][1])
    assert not np.array_equal(found[0][1], batches(digits, seed=8)[0][1])


def test_views_belong_to_the_labels(digits):
    """Without augmentation a view is its image, and the image tells the label."""
    label_of = {
        decode(encoded).numpy().tobytes(): int(label) for encoded, label in digits.train.records()
    }
    for views, labels in batches(digits, Augmentation(aspect=1.0), epochs=1):
        pixels = np.rint(views * 255).astype(np.uint8)
        for image_views, label in zip(pixels, labels, strict=True):
            assert [label_of[view.tobytes()] for view in image_views] == [label, label]


def test_an_epoch_is_a_permutation(digits):
    seen = [
        np.rint(view[0] * 255).astype(np.uint8).tobytes()
        for views, _ in batches(digits, Augmentation(aspect=1.0), epochs=1, batch_size=1347)
        for view in views
    ]
    assert sorted(seen) == sorted(
        decode(encoded).numpy().tobytes() for encoded, _ in digits.train.records()
    )


def test_folder_of_mixed_sizes(tmp_path):
    write_images(tmp_path, ["small"], 10, size=(10, 14), level=50)
    write_images(tmp_path, ["wide"], 10, size=(90, 30), level=200)
    dataset = open_dataset(f"folder:{tmp_path}", image_size_px=12)
    first = batches(dataset, AUGMENTATIONS["cifar"], batch_size=4)
    again = batches(dataset, AUGMENTATIONS["cifar"], batch_size=4, first_step=4)
    assert first[0][0].shape == (4, 2, 12, 12, 3)
    assert not np.array_equal(first[0][0][:, 0], first[0][0][:, 1])
    np.testing.assert_array_equal(first[4][0], again[0][0])
    # Brightness tells the class of these images: labels stay with their views.
    views, labels = batches(dataset, Augmentation(min_area=0.5), batch_size=16)[0]
    np.testing.assert_array_equal(views.mean((1, 2, 3, 4)) > 0.5, labels == 1)


def test_refuses_shares_that_do_not_divide_the_batch(digits):
    with pytest.raises(ValueError, match="a multiple of the 3 shares. Received: 100"):
        stream(digits, share=Share(0, 3))


def test_refuses_a_batch_above_the_split(digits):
    with pytest.raises(ValueError, match="at most the 1347 training images. Received: 1348"):
        stream(digits, batch_size=1348)
