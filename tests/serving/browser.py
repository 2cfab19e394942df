"""A headless Chromium, driven over the DevTools protocol, and what the tests do in the page."""

import base64
import contextlib
import io
import json
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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path; Debian: apt-get install chromium"
)


# Their codes, and the text that they type.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r")}


class Browser:
    """One tab of a headless Chromium, driven over the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.sent, self.events = socket, 0, []
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.be()

    def be(self, width=1240, height=866, scheme="light", touch=False):
        """Becomes a window or, with touch, a phone of some size, in a light or dark scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        media = {"prefers-reduced-motion": "reduce", "prefers-color-scheme": scheme}
        features = [{"name": name, "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def press(self, key):
        """Presses a key, one of KEYS."""
        code, text = KEYS[key]
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def screenshot(self, file):
        """Writes a picture of the whole page."""
        height = self.evaluate("document.documentElement.scrollHeight")
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

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


def open_page(browser, server, model="digits"):
    """Loads the page, and gives its address."""
    address = f"http://127.0.0.1:{server.http_port}/"
    browser.events.clear()
    browser.call("Page.navigate", url=address)
    browser.wait_for(f"document.title.startsWith('{model}')")
    return address


def digit(number, kind="PNG", **options):
    """The bytes of an image of the embedded digits."""
    stream = io.BytesIO()
    Image.fromarray(load_images()[0][number, :, :, 0]).save(stream, kind, **options)
    return stream.getvalue()


def contrast(page, selector):
    """The contrast ratio of an element's text to what is behind it, as WCAG 2.2 defines it."""
    colours = page.evaluate(
        f"""(() => {{
          const text = document.querySelector({json.dumps(selector)});
          let behind = text;
          const ground = (node) => getComputedStyle(node).backgroundColor;
          while (ground(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
          return [getComputedStyle(text).color, ground(behind)];
        }})()"""
    )
    levels = [np.array(re.findall(r"\d+", colour)[:3], float) / 255 for colour in colours]
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in levels]
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (high + 0.05) / (low + 0.05)


def text(page, name):
    return page.evaluate(f"document.getElementById('{name}').innerText.trim()")


def is_shown(page, name):
    return page.evaluate(f"document.getElementById('{name}').checkVisibility()")


def put_in(page, *paths):
    """Chooses files."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[*map(str, paths)])


def choose(page, *paths):
    """Chooses images, and waits for the answer to the first."""
    put_in(page, *paths)
    wait_for_answer(page, paths[0].name)


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
