"""Sheets of views: their layout, and the settings that are refused."""

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from supcon_tf import AUGMENTATIONS, PretrainConfig, UserError
from supcon_tf.config import ShowViewsConfig
from supcon_tf.stages.view_sheets import arrange, show_views

GAP = 4


def drawn(tmp_path, num_images=3, step=0, **settings):
    file = tmp_path / "views.png"
    config = ShowViewsConfig(
        output_file=str(file), num_images=num_images, step=step, overwrite=True
    )
    size = show_views(config, PretrainConfig(**settings))
    sheet = np.asarray(Image.open(file))
    assert sheet.shape == (*size, 3)
    return sheet


def cell(sheet, row, column, side):
    pitch = side + GAP
    top, left = GAP + row * pitch, GAP + column * pitch
    return sheet[top : top + side, left : left + side]


def test_arrange_puts_magnified_images_into_cells():
    large = np.random.default_rng(0).random((2, 40, 40, 3))
    small = np.zeros((10, 10, 3))
    sheet = arrange([[large[0], small], [large[1], small]], 40)
    assert sheet.shape == (2 * 84 + 4, 2 * 84 + 4, 3)
    expected = np.rint(255 * large[1]).astype(np.uint8)
    np.testing.assert_array_equal(cell(sheet, 1, 0, 80)[::2, ::2], expected)
    np.testing.assert_array_equal(cell(sheet, 1, 0, 80)[1::2, 1::2], expected)
    second = cell(sheet, 0, 1, 80)
    assert not second[:20, :20].any()
    assert np.all(second[20:] == 255)
    assert np.all(sheet[:4] == 255)
    assert np.all(sheet[:, 84:88] == 255)


def test_rows_are_images_with_their_views(tmp_path, data_dir, digits):
    settings = {"data_dir": data_dir, "augmentation": "none", "num_views": 2}
    sheet = drawn(tmp_path, **settings)
    assert sheet.shape == (3 * 68 + 4, 3 * 68 + 4, 3)
    images = digits.train.held.images.numpy()
    for row, place in enumerate((0, 449, 898)):  # Evenly spread over 1,347.
        for column in range(3):
            np.testing.assert_array_equal(cell(sheet, row, column, 64)[::8, ::8], images[place])


def test_views_are_those_of_the_settings_and_the_step(tmp_path, data_dir):
    settings = {"data_dir": data_dir, "augmentation": "symbols"}
    sheet = drawn(tmp_path, **settings)
    np.testing.assert_array_equal(sheet, drawn(tmp_path, **settings))
    other = drawn(tmp_path, step=1, **settings)
    np.testing.assert_array_equal(cell(sheet, 0, 0, 64), cell(other, 0, 0, 64))
    assert not np.array_equal(cell(sheet, 0, 1, 64), cell(other, 0, 1, 64))
    grey = drawn(tmp_path, augmentation_args={"cutout": 1.0}, **settings)
    assert np.mean(cell(grey, 0, 1, 64) == 128) > 0.2


def test_a_folder_of_any_size_with_small_views(tmp_path):
    write_images(tmp_path / "photos", ["a", "b"], 10, size=(60, 30), level=200)
    sheet = drawn(
        tmp_path,
        dataset=f"folder:{tmp_path / 'photos'}",
        image_size_px=32,
        augmentation="cifar",
        small_views=3,
    )
    assert sheet.shape == (3 * 68 + 4, 6 * 68 + 4, 3)
    original = cell(sheet, 1, 0, 64)
    assert not original[:14].any()  # A wide image as a whole has black above and below.
    assert original[20:44].min() > 80
    small = cell(sheet, 1, 3, 64)
    assert np.all(small[32:] == 255)
    assert not np.all(small[:32, :32] == 255)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "output_file must be a .png file. Received: ''"),
        ({"output_file": "views.jpg"}, "output_file must be a .png file. Received: 'views.jpg'"),
        ({"output_file": "{folder}/there.png"}, "output_file already exists.*or --overwrite"),
        ({"output_file": "{folder}/folder.png", "overwrite": True}, "output_file is a folder"),
        ({"output_file": "a.png", "num_images": 0}, "num_images must be at least 1"),
    ],
)
def test_refuses_wrong_settings(settings, message, tmp_path):
    (tmp_path / "there.png").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    if "output_file" in settings:
        settings = {**settings, "output_file": settings["output_file"].format(folder=tmp_path)}
    with pytest.raises(UserError, match=message):
        ShowViewsConfig(**settings)
    assert (tmp_path / "there.png").read_text() == "mine"


def test_a_wrong_augmentation_is_refused_before_the_data_and_leaves_the_file(tmp_path):
    file = tmp_path / "views.png"
    config = ShowViewsConfig(output_file=str(file))
    with pytest.raises(UserError, match="augmentation must be one of symbols"):
        show_views(config, PretrainConfig(dataset="nowhere", augmentation="other"))
    assert not file.exists()
    assert "other" not in AUGMENTATIONS
