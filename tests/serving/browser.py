"""A headless Chromium, driven over the DevTools protocol, and what the tests do in the page."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from serving import fakes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path; Debian: apt-get install chromium"
)


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
