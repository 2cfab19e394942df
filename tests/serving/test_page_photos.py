"""The page of a model of photos: several images, phones, dark and light, the keyboard alone.

`SUPCON_TF_SCREENSHOTS=folder` keeps pictures of what is asserted here.
"""

import json
import os
from pathlib import Path

import pytest
from serving import fakes
from serving.browser import (
    assert_shows,
    choose,
    contrast,
    digit,
    is_shown,
    needs_chromium,
    text,
    wait_for_answer,
)

LONG = "a photograph with a rather long name, taken in the garden.jpg"
NAMES = ["one.png", "cut_off.jpg", LONG, "wide.jpg", "last.png"]
ROWS = "[...document.querySelectorAll('#rows tr')]"
CELLS = f"{ROWS}.map((row) => row.innerText.split(/\\s*[\\n\\t]+/))"
WIDTHS = pytest.mark.parametrize("width", [1200, 360])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture
def five(tmp_path):
    """By name the bytes of five images, the second one truncated, as files too."""
    whole = fakes.picture("JPEG", size=(90, 60))
    contents = [digit(10), whole[: len(whole) // 3], whole]
    contents += [fakes.picture("JPEG", size=(120, 40), seed=1), digit(11)]
    found = dict(zip(NAMES, contents, strict=True))
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
    return found


@pytest.fixture
def photos(page):
    """The page, of a model that was trained on photos."""
    page.evaluate("model.draws = false; showModel()")
    return page


def keep(page, name, tmp_path):
    folder = Path(os.environ.get("SUPCON_TF_SCREENSHOTS") or tmp_path)
    page.screenshot(folder / f"{name}.png")


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.innerText.trim()")


def answer_chooser(page, files):
    """Gives files to the dialogue that a button has opened; returns how many it takes."""
    page.evaluate("0")  # The event has come by then.
    (opened,) = page.named("Page.fileChooserOpened")
    page.call("DOM.setFileInputFiles", backendNodeId=opened["backendNodeId"], files=files)
    return opened["mode"]


@needs_chromium
@WIDTHS
@SCHEMES
def test_five_images_with_the_keyboard_alone(width, scheme, photos, five, server, tmp_path):
    photos.be(width=width, scheme=scheme)
    assert not is_shown(photos, "drawing")
    assert not is_shown(photos, "settings")
    assert "Draw" not in photos.evaluate("document.body.innerText")
    assert contrast(photos, "#hint") >= 4.5
    keep(photos, f"empty_{width}_{scheme}", tmp_path)
    photos.call("Page.setInterceptFileChooserDialog", enabled=True)
    photos.press("Tab")
    assert focused(photos) == "choose"
    photos.press("Enter")
    assert answer_chooser(photos, [str(tmp_path / name) for name in five]) == "selectMultiple"
    wait_for_answer(photos, NAMES[0])
    assert text(photos, "progress") == "5 of 5 answered"
    assert text(photos, "spoken") == "5 images, 1 of them without an answer"
    rows = photos.evaluate(CELLS)
    assert [row[0] for row in rows] == NAMES
    for row, content in zip(rows, five.values(), strict=True):
        status, answer = server.predict({"b64": fakes.base64_of(content)})
        if status == 400:
            assert row[0] == "cut_off.jpg"
            assert row[1] == "no answer"
            continue
        (found,) = answer["predictions"]
        assert row[1:] == [found["class_name"], f"{max(found['probabilities']) * 100:.1f} %"]
    keep(photos, f"five_{width}_{scheme}", tmp_path)
    assert photos.evaluate("document.documentElement.scrollWidth") <= width

    for name in ("clear", *NAMES[:2]):
        photos.press("Tab")
        assert focused(photos) == name
    photos.press("Enter")
    assert text(photos, "source") == "cut_off.jpg"
    assert text(photos, "error").startswith("cut_off.jpg cannot be read. It is damaged, cut off")
    assert not is_shown(photos, "results")
    assert is_shown(photos, "unshown") != is_shown(photos, "picture")
    for selector in ("#error", "#unshown", "#rows .fault", "#progress", "#source", "#note"):
        assert contrast(photos, selector) >= 4.5, selector
    keep(photos, f"cut_off_{width}_{scheme}", tmp_path)
    photos.press("Tab")
    photos.press("Enter")
    assert text(photos, "source") == LONG
    assert_shows(photos, server, five[LONG])
    assert photos.evaluate("document.documentElement.scrollWidth") <= width
    keep(photos, f"photo_{width}_{scheme}", tmp_path)


@needs_chromium
def test_no_broken_image_is_shown_for_a_truncated_one(photos, five, tmp_path):
    choose(photos, tmp_path / "cut_off.jpg")
    assert is_shown(photos, "error")
    assert not is_shown(photos, "table-card")
    broken = (
        "[...document.images].filter((image) => image.checkVisibility() && !image.naturalWidth)"
    )
    assert photos.evaluate(f"{broken}.length") == 0


@needs_chromium
@WIDTHS
def test_long_class_names_are_not_cut(width, photos, five, tmp_path):
    photos.be(width=width)
    names = [f"Melospiza_melodia_or_song_sparrow_of_the_western_shore_{i}" for i in range(10)]
    photos.evaluate(f"model.classNames = {json.dumps(names)}; loadModel = () => {{}}")
    choose(photos, tmp_path / "one.png")
    photos.evaluate(f"items[0].answer.nearest.neighbor_class_names = {json.dumps(names)}")
    photos.evaluate("element('neighbors').replaceChildren(); showItem(items[0])")
    cut = "[...document.querySelectorAll('#answer, #bars .name, #neighbors .name')]"
    shown = photos.evaluate(
        f"{cut}.map((name) => [name.innerText, name.scrollWidth, name.offsetWidth])"
    )
    assert {name for name, _, _ in shown} == {*names}
    assert len(shown) == 21
    assert all(inside <= outside for _, inside, outside in shown)
    assert photos.evaluate(f"{cut}.every((n) => getComputedStyle(n).textOverflow === 'clip')")
    assert photos.evaluate("document.documentElement.scrollWidth") <= width
    keep(photos, f"long_{width}", tmp_path)


@needs_chromium
def test_a_phone_offers_its_camera(photos, five, server, tmp_path):
    assert not is_shown(photos, "photo")
    photos.be(width=360, height=740, touch=True)
    assert is_shown(photos, "photo")
    camera = "document.getElementById('camera')"
    assert photos.evaluate(f"{camera}.getAttribute('capture')") == "environment"
    photos.call("Page.setInterceptFileChooserDialog", enabled=True)
    photos.evaluate("document.getElementById('photo').focus()")
    photos.press("Enter")
    assert answer_chooser(photos, [str(tmp_path / "wide.jpg")]) == "selectSingle"
    wait_for_answer(photos, "wide.jpg")
    assert_shows(photos, server, five["wide.jpg"])


@needs_chromium
def test_a_click_on_a_row_shows_its_image_and_clear_forgets_all(photos, five, server, tmp_path):
    data = {"items": [], "files": [str(tmp_path / n) for n in NAMES], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        photos.call("Input.dispatchDragEvent", type=kind, x=700, y=300, data=data)
    wait_for_answer(photos, NAMES[0])
    photos.evaluate("document.querySelectorAll('#rows td')[8].click()")
    assert text(photos, "source") == "last.png"
    assert_shows(photos, server, five["last.png"])
    current = f"{ROWS}.map((row) => row.ariaCurrent !== null)"
    assert photos.evaluate(current) == [False] * 4 + [True]
    photos.evaluate("document.getElementById('clear').click()")
    photos.wait_for("document.getElementById('empty').checkVisibility()")
    assert not is_shown(photos, "table-card")
    assert not is_shown(photos, "results")
