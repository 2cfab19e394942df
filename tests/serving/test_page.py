"""The page in headless Chromium: what it shows is what the server says, and it asks nobody else.

`SUPCON_TF_SCREENSHOT=scripts/recipes/serving_page.png` keeps the picture that the README shows.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from serving import fakes

from supcon_tf.data.digits import load_images
from supcon_tf.serving.routes import PAGE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path; Debian: apt-get install chromium"
)
THREE = [(0.2, 0.15), (0.5, 0.1), (0.75, 0.2), (0.72, 0.38), (0.45, 0.48), (0.75, 0.6)]
THREE += [(0.78, 0.78), (0.55, 0.9), (0.2, 0.86)]


class Browser:
    """One tab of a headless Chromium, driven over the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.sent, self.events = socket, 0, []
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        size = {"width": 1240, "height": 866, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[still])

    def call(self, method, **parameters):
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=20))
            if message.get("id") != self.sent:
                self.events.append(message)
                continue
            assert "error" not in message, message
            return message["result"]

    def evaluate(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression, seconds=15):
        until = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"{expression} does not come true"
            time.sleep(0.02)

    def named(self, method):
        """Parameters of the events of one kind since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]


@contextlib.contextmanager
def chromium(profile: Path):
    """Starts one, and gives the address of its tab."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}"]
    flags += ["--disable-background-networking", "--no-first-run"]
    with subprocess.Popen(
        [CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield tab_of(profile / "DevToolsActivePort")
        finally:
            process.terminate()


def tab_of(port_file):
    until = time.monotonic() + 30
    while not (port_file.exists() and port_file.read_text()):
        assert time.monotonic() < until, "chromium does not start"
        time.sleep(0.02)
    port = port_file.read_text().split()[0]
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as tabs:
        return next(tab for tab in json.load(tabs) if tab["type"] == "page")["webSocketDebuggerUrl"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from websockets.sync.client import connect

    with (
        chromium(tmp_path_factory.mktemp("profile")) as address,
        connect(address, max_size=None) as socket,
    ):
        yield Browser(socket)


@pytest.fixture
def page(browser, server):
    """The page, loaded anew; afterwards: nobody else was asked, and no script failed."""
    address = f"http://127.0.0.1:{server.http_port}/"
    browser.events.clear()
    browser.call("Page.navigate", url=address)
    browser.wait_for("document.title.startsWith('digits')")
    yield browser
    asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert f"{address}v1/models/digits/metadata" in asked
    assert all(url.startswith((address, "data:", f"blob:{address}")) for url in asked), asked
    assert not browser.named("Runtime.exceptionThrown")
    assert not [e for e in browser.named("Log.entryAdded") if e["entry"]["source"] == "security"]


def text(page, name):
    return page.evaluate(f"document.getElementById('{name}').innerText.trim()")


def is_shown(page, name):
    return page.evaluate(f"document.getElementById('{name}').checkVisibility()")


def put_in(page, path):
    """Chooses a file."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def choose(page, path):
    """Chooses an image, and waits for its answer."""
    put_in(page, path)
    wait_for_answer(page, path.name)


def wait_for_answer(page, title):
    shown = f"document.getElementById('source').textContent.startsWith({json.dumps(title)})"
    page.wait_for(f"{shown} && document.querySelector('main[aria-busy=false]') !== null")


def draw(page, points):
    left, top, side = page.evaluate(
        "(({left, top, width}) => [left, top, width])(drawing.getBoundingClientRect())"
    )
    for number, (x, y) in enumerate(points):
        kind = "mouseMoved" if number else "mousePressed"
        place = {"x": left + side * x, "y": top + side * y, "button": "left", "buttons": 1}
        page.call("Input.dispatchMouseEvent", type=kind, clickCount=int(not number), **place)
    page.call("Input.dispatchMouseEvent", type="mouseReleased", clickCount=1, **place)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    wait_for_answer(page, "Drawing")


def sent_image(page):
    """The bytes that the last request for classes carried."""
    requests = page.named("Network.requestWillBeSent")
    posted = [one["requestId"] for one in requests if one["request"]["method"] == "POST"]
    body = page.call("Network.getRequestPostData", requestId=posted[-1])["postData"]
    return base64.b64decode(json.loads(body)["instances"][0]["b64"])


def assert_shows(page, server, encoded):
    """That the page shows what the server says of an image."""
    instance = {"b64": fakes.base64_of(encoded)}
    _, classes = server.predict(instance)
    _, nearest = server.predict(instance, signature_name="neighbors")
    (classes,), (nearest,) = classes["predictions"], nearest["predictions"]
    order = np.argsort(-np.array(classes["probabilities"]), kind="stable")
    shares = [f"{classes['probabilities'][index] * 100:.1f} %" for index in order]
    rows = "[...document.querySelectorAll('#bars li')].map((row) => row.innerText.split(/\\s*\\n/))"
    assert page.evaluate(rows) == [[str(i), s] for i, s in zip(order, shares, strict=True)]
    widths = "[...document.querySelectorAll('.fill')].map((bar) => parseFloat(bar.style.width))"
    expected = np.sort(classes["probabilities"])[::-1] * 100
    np.testing.assert_allclose(page.evaluate(widths), expected, atol=1e-3)
    assert text(page, "answer") == classes["class_name"]
    assert text(page, "answer-share") == shares[0]
    assert re.fullmatch(r"answered in [\d.]+ ms", text(page, "class-time"))

    tiles = "[...document.querySelectorAll('#neighbors li')]"
    expected = zip(nearest["neighbor_class_names"], nearest["similarities"], strict=True)
    assert page.evaluate(f"{tiles}.map((tile) => tile.innerText.split(/\\s*\\n/))") == [
        [name, f"{similarity:.3f}"] for name, similarity in expected
    ]
    assert page.evaluate(f"{tiles}.map((tile) => tile.firstChild.alt)") == [
        f"Training image {row}, class {name}"
        for row, name in zip(nearest["neighbor_ids"], nearest["neighbor_class_names"], strict=True)
    ]
    page.wait_for(f"{tiles}.every((tile) => tile.firstChild.naturalWidth === 8)")
    assert text(page, "score") == f"{nearest['out_of_distribution']:.3f}"
    assert f"{nearest['out_of_distribution'] * 100:.1f} % lie nearer" in text(page, "meaning")
    assert not is_shown(page, "error")


def digit(number, kind="PNG", **options):
    """The bytes of an image of the embedded digits."""
    stream = io.BytesIO()
    Image.fromarray(load_images()[0][number, :, :, 0]).save(stream, kind, **options)
    return stream.getvalue()


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
        ("half.png", digit(10)[:60], "The server answered 400: "),
        ("large.png", fakes.picture(size=(900, 900)), "The server answered 413: "),
    ],
    ids=["no image", "half an image", "too large"],
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
    assert "\n" not in text(page, "error")
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


def test_the_page_allows_its_own_style_and_script_alone():
    content = PAGE.read_text("utf-8")
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
