"""A server of a model of several classes per image: both protocols, a remote model, the page."""

import base64
import json
from urllib.request import Request, urlopen

import pytest
from conftest import COLORS
from serving import fakes
from serving.browser import choose, contrast, needs_chromium, open_page, text
from serving.test_page_photos import CELLS, SCHEMES, WIDTHS, keep

import supcon_tf


@pytest.fixture(scope="module")
def several_server(several_exported):
    with fakes.serving(several_exported) as running:
        yield running


@pytest.fixture(scope="module")
def image(several_run):
    """A training image with a class or more, which is then its own nearest neighbour."""
    folder = several_run.parents[1] / "several_images"
    return folder / "007.png"  # All three.


def asked(server, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"http://127.0.0.1:{server.http_port}/{path}", data, headers)) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_both_protocols_name_several_classes(several_server, image):
    encoded = base64.b64encode(image.read_bytes()).decode()
    metadata = asked(several_server, "v1/models/colors/metadata")["metadata"]
    assert metadata["multi_label"] is True
    body = {"instances": [{"b64": encoded}]}
    (first,) = asked(several_server, "v1/models/colors:predict", body)["predictions"]
    assert first["class_name"] == "|".join(COLORS)
    assert min(first["probabilities"]) >= 0.5
    inputs = [{"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [encoded]}]
    outputs = asked(several_server, "v2/models/colors/infer", {"inputs": inputs})["outputs"]
    found = {output["name"]: output["data"] for output in outputs}
    assert found["class_name"] == ["|".join(COLORS)]
    assert found["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)


def test_a_remote_model_gives_what_the_bundle_gives(several_server, several_exported, image):
    def classes(model):
        config = supcon_tf.PredictConfig(model=model)
        return [result["classes"] for result in supcon_tf.predict(config, [str(image)])]

    remote = classes(f"http://127.0.0.1:{several_server.http_port}")
    assert remote == classes(str(several_exported))
    assert sorted(remote[0]) == list(COLORS)


@needs_chromium
@WIDTHS
@SCHEMES
def test_the_page_shows_several_classes(width, scheme, browser, several_server, image, tmp_path):
    open_page(browser, several_server, "colors")
    browser.be(width=width, scheme=scheme)
    (tmp_path / "cut_off.png").write_bytes(image.read_bytes()[:60])
    choose(browser, image, tmp_path / "cut_off.png", image.with_name("006.png"))
    browser.wait_for("document.getElementById('progress').innerText === '3 of 3 answered'")
    whole, cut_off, _ = browser.evaluate(CELLS)
    assert sorted(whole[1].split(", ")) == list(COLORS)
    assert cut_off[:2] == ["cut_off.png", "no answer"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert contrast(browser, "#bars .name") >= 4.5
    keep(browser, f"several_{width}_{scheme}", tmp_path)
    assert text(browser, "class-title") == "Classes"
    assert sorted(text(browser, "answer").split(", ")) == list(COLORS)
    assert text(browser, "answer-share").endswith(" %")
    assert text(browser, "rest") == ""
    bold = "[...document.querySelectorAll('#bars li.answered')].length"
    assert browser.evaluate(bold) == 3
    browser.evaluate("showClasses({probabilities: [0.1, 0.3, 0.2]})")
    assert (text(browser, "answer"), text(browser, "answer-share")) == ("green", "30.0 %")
    assert browser.evaluate(bold) == 1
    assert not browser.named("Runtime.exceptionThrown")
