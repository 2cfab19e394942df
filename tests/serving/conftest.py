"""One server that most tests ask, and what they compare its answers with."""

import shutil

import grpc
import numpy as np
import pytest
from serving import fakes
from serving.browser import Browser, chromium, open_page

from supcon_tf import serving
from supcon_tf.exporting.bundle import load_bundle


@pytest.fixture(scope="session")
def served_bundle(exported):
    """The version directory of an exported bundle."""
    return exported[1] / "1"


@pytest.fixture(scope="session")
def bundle(served_bundle):
    return load_bundle(served_bundle)


@pytest.fixture(scope="session")
def server(served_bundle, tmp_path_factory):
    """A server of version 1, over HTTP and gRPC."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    shutil.copytree(served_bundle, folder / served_bundle.name)
    flags = ["--max_request_mb=2", "--max_image_megapixels=5", "--max_queue=64"]
    with fakes.serving(folder, *flags, grpc=True) as running:
        yield running


@pytest.fixture(scope="session")
def messages():
    """KServe's protobuf messages; it would read pytest's command line while it is imported."""
    serving._import_kserve()
    from kserve.protocol.grpc import grpc_predict_v2_pb2

    return grpc_predict_v2_pb2


@pytest.fixture
def stub(server, messages):
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="session")
def expected(bundle):
    """The bundle's answers in this process, for each file and then for the pixels."""
    images = [bundle.decode(content) for content in fakes.FILES.values()] + [
        bundle.scale(fakes.PIXELS)
    ]
    found = bundle.classify(np.stack(images))
    return {**found, **bundle.nearest(found["embeddings"])}


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from websockets.sync.client import connect

    with (
        chromium(tmp_path_factory.mktemp("profile")) as address,
        connect(address, max_size=None) as socket,
    ):
        yield Browser(socket)


@pytest.fixture
def page(browser, server):
    """The page, freshly loaded; checks later that it asked no other host and no script failed."""
    address = open_page(browser, server)
    yield browser
    browser.be()
    asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert f"{address}v1/models/digits/metadata" in asked
    assert all(url.startswith((address, "data:", f"blob:{address}")) for url in asked), asked
    assert not browser.named("Runtime.exceptionThrown")
    assert not [e for e in browser.named("Log.entryAdded") if e["entry"]["source"] == "security"]
