"""The page in headless Chromium: what it shows is what the server says, and it asks nobody else.

`SUPCON_TF_SCREENSHOT=docs/pictures/serving_page.png` keeps the picture of docs/guides/serving.md.
"""

import base64
import hashlib
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import fakes
from serving.browser import (
    assert_shows,
    choose,
    digit,
    draw,
    is_shown,
    needs_chromium,
    open_page,
    put_in,
    sent_image,
    text,
    wait_for_answer,
)

from supcon_tf.data.digits import load_images
from supcon_tf.serving import document

THREE = [(0.2, 0.15), (0.5, 0.1), (0.75, 0.2), (0.72, 0.38), (0.45, 0.48), (0.75, 0.6)]
THREE += [(0.78, 0.78), (0.55, 0.9), (0.2, 0.86)]


@needs_chromium
def test_a_dropped_file_is_sent_as_it_is_and_its_answer_shown(page, server, tmp_path):
    file = tmp_path / "digit.png"
    file.write_bytes(digit(10))
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=700, y=300, data=data)
    wait_for_answer(page, "digit.png")
    assert sent_image(page) == digit(10)
    assert_shows(page, server, digit(10))
    assert text(page, "name") == "digits"
    assert text(page, "chips").split("\n") == ["version 1", "10 classes", "sees 8 × 8 pixels"]
    assert text(page, "note") == "8 × 8 pixels, PNG, sent as it is"
    other = tmp_path / "other.png"
    other.write_bytes(digit(11))
    choose(page, other)
    assert_shows(page, server, digit(11))


@needs_chromium
def test_a_drawing_is_answered_while_it_is_drawn(page, server, tmp_path):
    draw(page, THREE)
    encoded = sent_image(page)
    assert Image.open(io.BytesIO(encoded)).size == (320, 320)
    assert_shows(page, server, encoded)
    assert text(page, "answer") == "3"
    content = base64.b64decode(page.call("Page.captureScreenshot")["data"])
    kept = Path(os.environ.get("SUPCON_TF_SCREENSHOT") or tmp_path / "page.png")
    kept.write_bytes(content)
    assert Image.open(io.BytesIO(content)).size[0] > 1000
    posts = [e for e in page.named("Network.requestWillBeSent") if "postData" in str(e)]
    assert len(posts) > 4
    page.evaluate("document.getElementById('clear').click()")
    page.wait_for("document.getElementById('empty').checkVisibility()")
    assert not is_shown(page, "results")
    assert not is_shown(page, "sent")


@needs_chromium
def test_a_small_drawing_is_enlarged_and_inverted_as_asked(page, server):
    draw(page, [(0.4, 0.5), (0.6, 0.5)])  # 40 px wide, from 128 to 192.
    pixels = np.asarray(Image.open(io.BytesIO(sent_image(page))).convert("L"), int)
    inside = np.argwhere(pixels > 128)
    assert inside[:, 1].min() <= 3
    assert inside[:, 1].max() >= 316
    assert abs(np.ptp(inside[:, 0]) - 320 * 40 / 104) < 6
    page.evaluate("document.getElementById('invert').click()")
    page.wait_for("document.querySelector('main[aria-busy=false]') !== null")
    inverted = np.asarray(Image.open(io.BytesIO(sent_image(page))).convert("L"), int)
    np.testing.assert_array_equal(inverted, 255 - pixels)
    assert_shows(page, server, sent_image(page))


@needs_chromium
def test_the_keyboard_draws(page, server):
    page.evaluate("drawing.focus()")
    for kind, key in [("keyDown", " "), *[("keyDown", "ArrowDown")] * 6, ("keyUp", " ")]:
        page.call("Input.dispatchKeyEvent", type=kind, key=key)
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")  # Draws no more.
    wait_for_answer(page, "Drawing")
    assert page.evaluate("ink") == [140, 140, 180, 228]
    assert_shows(page, server, sent_image(page))


@needs_chromium
def test_a_type_that_the_server_does_not_take_is_converted_and_said_so(page, server, tmp_path):
    file = tmp_path / "digit.webp"
    file.write_bytes(digit(10, "WEBP", lossless=True))
    choose(page, file)
    assert text(page, "note") == "8 × 8 pixels, converted from WEBP, sent as PNG"
    sent = Image.open(io.BytesIO(sent_image(page))).convert("L")
    np.testing.assert_array_equal(np.asarray(sent), load_images()[0][10, :, :, 0])
    assert_shows(page, server, sent_image(page))


@needs_chromium
def test_a_pasted_photo_shows_the_square_that_the_model_sees(page, server, tmp_path):
    photo = fakes.picture("JPEG", size=(30, 60))
    page.evaluate(
        f"""(() => {{
          const bytes = Uint8Array.from(atob({fakes.base64_of(photo)!r}), (c) => c.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "image.jpg"));
          document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData }}));
        }})()"""
    )
    wait_for_answer(page, "image.jpg")
    assert sent_image(page) == photo
    assert page.evaluate("document.getElementById('seen-square').style.width") == "50%"
    assert is_shown(page, "seen-square")
    assert_shows(page, server, photo)


@needs_chromium
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"hello", "notes.txt is not an image that the browser can read."),
        ("half.png", digit(10)[:60], "half.png cannot be read. It is damaged, cut off, or "),
        ("torn.png", digit(10)[:10], "torn.png cannot be read. It is damaged, cut off, or "),
        (
            "wide.png",
            fakes.huge_png(9000, 900),
            "wide.png: has 9000 x 900 pixels; an image ",
        ),
        ("large.png", fakes.picture(size=(900, 900)), "large.png is too large for this server."),
    ],
    ids=["no image", "half an image", "half a header", "too many pixels", "too large"],
)
def test_an_error_is_one_line_and_the_next_image_is_answered(
    name, content, message, page, server, tmp_path
):
    (tmp_path / name).write_bytes(content)
    for good in ("before.png", "after.png"):
        (tmp_path / good).write_bytes(digit(10))
    choose(page, tmp_path / "before.png")
    put_in(page, tmp_path / name)
    page.wait_for("document.getElementById('error').checkVisibility()")
    assert text(page, "error").startswith(message)
    assert not re.search(r"\n|instance|max_|answered", text(page, "error"))
    assert not is_shown(page, "results")
    choose(page, tmp_path / "after.png")
    assert_shows(page, server, digit(10))


@needs_chromium
def test_class_names_are_text_and_a_model_without_index_says_so(page, server):
    names = ["<img src=x onerror=alert(1)>", "&amp;", *"23456789"]
    page.evaluate(f"model.classNames = {json.dumps(names)}; model.hasNeighbors = false")
    page.evaluate("loadModel = () => {}")  # It would find that these are not the server's.
    draw(page, [(0.5, 0.1), (0.2, 0.5), (0.5, 0.9), (0.8, 0.5), (0.5, 0.1)])
    shown = page.evaluate("[...document.querySelectorAll('#bars .name')].map((n) => n.textContent)")
    assert sorted(shown) == sorted(names)
    assert text(page, "answer") in names
    assert page.evaluate("document.querySelectorAll('#bars img').length") == 0
    assert "exported without an index" in text(page, "no-neighbors")
    assert not is_shown(page, "score-card")


@pytest.mark.slow
@needs_chromium
def test_when_the_version_changes_the_page_shows_the_new_one(browser, served_bundle, tmp_path):
    pictures = "[...document.querySelectorAll('#neighbors img')].map((picture) => picture.src)"
    for number in (10, 11):
        (tmp_path / f"{number}.png").write_bytes(digit(number))
    folder = tmp_path / "digits"
    folder.mkdir()
    fakes.write_version(served_bundle, folder, 1)
    with fakes.serving(folder, "--poll_seconds=0.2") as server:
        open_page(browser, server)
        choose(browser, tmp_path / "10.png")
        assert all(address.endswith("?version=1") for address in browser.evaluate(pictures))
        fakes.write_version(served_bundle, folder, 2)
        server.wait_for_line("serving digits version 2 instead of 1")
        choose(browser, tmp_path / "11.png")
        assert text(browser, "chips").startswith("version 2\n")
        shown = browser.evaluate(pictures)
        assert shown
        assert all(address.endswith("?version=2") for address in shown)
        assert_shows(browser, server, digit(11))


def test_the_page_allows_its_own_style_and_script_alone():
    content = document.page().decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', content).group(1)
    for tag in ("style", "script"):
        inline = re.search(f"<{tag}>(.*?)</{tag}>", content, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy, f"write 'sha256-{digest}' for {tag}-src"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", content)
    addresses = set(re.findall(r"https?://[^'\"\s]*", content))
    assert addresses == {"http://www.w3.org/2000/svg"}
