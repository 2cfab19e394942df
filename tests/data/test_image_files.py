import shutil
import sys

import numpy as np
import pytest
from conftest import write_images
from PIL import Image, ImageOps

from supcon_tf import UserError, open_dataset
from supcon_tf.data.image_files import decodable, extensions, fault_in, ignored_line
from supcon_tf.data.images import InvalidImage, decode
from supcon_tf.exporting.prediction import find_images


@pytest.fixture
def no_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


@pytest.fixture
def heic_pixels():
    """Smooth, so that a lossy step would still be near: uint8 [24, 40, 3]."""
    ramp = np.linspace(0, 250, 40).astype(np.uint8)
    return np.stack(
        np.broadcast_arrays(ramp, ramp[::-1], np.arange(24, dtype=np.uint8)[:, None]), 2
    )


def write_heic(file, pixels, orientation=1):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    height, width, _ = pixels.shape
    lossless = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
    pillow_heif.encode(
        "RGB", (width, height), pixels.tobytes(), file, exif=exif.tobytes(), **lossless
    )


def test_ignored_files_are_counted_by_ending(image_folder, no_heic):
    (image_folder / "dark" / "IMG_1.HEIC").write_bytes(b"")
    (image_folder / "light" / "notes.txt").write_text("")
    (image_folder / "README").write_text("")
    shutil.copy(image_folder / "dark" / "000.png", image_folder)
    for junk in ("Thumbs.db", "light/desktop.ini", "dark/.DS_Store", "__MACOSX/dark/000.png"):
        (image_folder / junk).parent.mkdir(parents=True, exist_ok=True)
        (image_folder / junk).write_text("")
    dataset = open_dataset(f"folder:{image_folder}")
    assert dataset.class_names == ("dark", "light")
    assert dataset.remarks == (
        "4 files ignored: 1 .heic (pip install 'supcon_tf[heic]'), 1 .png, 1 .txt, "
        "1 without an extension",
    )


def test_nothing_ignored_is_not_worth_a_word(image_folder):
    assert ignored_line([]) is None
    assert open_dataset(f"folder:{image_folder}").remarks == ()


def test_heic_files_alone_say_which_package_is_missing(tmp_path, no_heic, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.heic").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"folder has no images .* 1 file ignored: 1 \.heic \(pip install"
    ):
        find_images([tmp_path])
    with pytest.raises(InvalidImage, match=r"HEIC files need pillow-heif\. Run: pip install"):
        decodable(b"", tmp_path / "one.heic")
    write_images(tmp_path, ["b"], 1)
    assert [*find_images([tmp_path])] == [str(tmp_path / "b" / "000.png")]
    assert capsys.readouterr().err == (
        f"{tmp_path}: 1 file ignored: 1 .heic (pip install 'supcon_tf[heic]')\n"
    )


def test_a_data_sets_name_is_no_path_of_images(image_folder):
    with pytest.raises(UserError, match=f"not found.* Did you mean '{image_folder}'"):
        find_images([f"folder:{image_folder}"])


def test_webp_files_are_images(image_folder):
    file = image_folder / "dark" / "000.png"
    pixels = np.asarray(Image.open(file))
    file.unlink()
    Image.fromarray(pixels).save(file.with_suffix(".WebP"), lossless=True)
    dataset = open_dataset(f"folder:{image_folder}", holdout_fraction=0.5)
    split = dataset.train if "dark/000.WebP" in dataset.train.names else dataset.test
    encoded = list(split.records())[split.names.index("dark/000.WebP")][0]
    np.testing.assert_array_equal(decode(encoded), pixels)


@pytest.mark.parametrize("orientation", [1, 2, 6, 8])
def test_heic_decodes_losslessly_and_upright(tmp_path, heic_pixels, orientation):
    write_heic(tmp_path / "one.heic", heic_pixels, orientation)
    assert {".heic", ".heif"} < set(extensions())
    found = decode(decodable((tmp_path / "one.heic").read_bytes(), tmp_path / "one.heic"))
    stored = Image.fromarray(heic_pixels)
    stored.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(stored)))


@pytest.mark.parametrize("box", [b"meta", b"hdlr", b"iloc", b"ispe"])
def test_a_damaged_heic_is_a_fault_of_the_image(box, tmp_path, heic_pixels):
    file = tmp_path / "one.heic"
    write_heic(file, heic_pixels)
    content = bytearray(file.read_bytes())
    assert fault_in(bytes(content), file) is None
    content[content.index(box) + 4] = 74  # The version of a part.
    assert fault_in(bytes(content), file).startswith(("the HEIC image", "the bytes are not"))


def test_heic_images_of_a_folder_are_trained_on(image_folder, heic_pixels):
    write_heic(image_folder / "dark" / "one.HEIF", heic_pixels)
    shutil.copy(image_folder / "dark" / "000.png", image_folder / "dark" / "two.heic")
    dataset = open_dataset(f"folder:{image_folder}", image_size_px=8)
    assert dataset.remarks == (
        "exact copies: 1, of 1 images; they stay together when images are held out or set aside",
    )
    names = [*dataset.train.names, *dataset.test.names]
    records = [*dataset.train.records(), *dataset.test.records()]
    assert len(names) == 42
    np.testing.assert_array_equal(decode(records[names.index("dark/one.HEIF")][0]), heic_pixels)
    (image_folder / "dark" / "one.HEIF").write_bytes(
        (image_folder / "dark" / "one.HEIF").read_bytes()[:200]
    )
    with pytest.raises(UserError, match=r"cannot read image .*one\.HEIF: the HEIC image cannot be"):
        open_dataset(f"folder:{image_folder}")
