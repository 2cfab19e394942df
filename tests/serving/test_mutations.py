"""Ten thousand damaged requests: none is the server's fault, and none harms it."""

import base64
import copy
import http.client
import json
import struct

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serving.fakes import base64_of, picture

REQUESTS, AT_ONCE = 10_000, 25
# gRPC statuses that show no fault of the server's; overload would give another one.
FINE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
FILES = [
    *(picture(kind, size=(9, 7)) for kind in ("PNG", "JPEG", "GIF", "BMP")),
    picture(mode="L", size=(5, 6)),
    picture("JPEG", mode="L", size=(5, 6)),
    picture(mode="RGBA", size=(5, 6)),
]
PREDICT, INFER = "/v1/models/digits:predict", "/v2/models/digits/infer"
PIXELS = [[[1, 2, 3], [4, 5.5, 255]]]
ENCODED = {"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [base64_of(FILES[0])]}
IMAGES = {"name": "images", "datatype": "FP32", "shape": [1, 1, 2, 3], "data": [PIXELS]}
RAW = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 2, 3]}
DOCUMENTS = [
    (PREDICT, {"instances": [PIXELS, {"b64": base64_of(FILES[1])}], "signature_name": "embed"}),
    (PREDICT, {"instances": [{"b64": base64_of(FILES[2])}], "signature_name": "neighbors"}),
    (PREDICT, {"inputs": {"encoded": [{"b64": base64_of(FILES[3])}]}}),
    (PREDICT, {"instances": [{"images": PIXELS}], "signature_name": "serving_uint8"}),
    (INFER, {"id": "1", "inputs": [ENCODED], "outputs": [{"name": "class_id"}]}),
    (INFER, {"inputs": [IMAGES], "parameters": {"signature_name": "neighbors"}}),
    (INFER, {"inputs": [{**RAW, "parameters": {"binary_data_size": 6}}], "outputs": [
        {"name": "embeddings", "parameters": {"binary_data": True}}]}),
]  # fmt: skip


def nodes(document, path=()):
    """The path to every value within a document."""
    found = [path] if path else []
    if isinstance(document, dict | list):
        keys = document if isinstance(document, dict) else range(len(document))
        for key in keys:
            found += nodes(document[key], (*path, key))
    return found


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


STRANGE = st.sampled_from(
    (
        *("", "x" * 9000, "\ud800", "digits", {}, [], [[]], [1, [2]], {"b64": 1}, {"b64": ""}),
        *(10**400, 2**63, -1, 1e308, float("nan"), float("inf"), nested(30), nested(200)),
        *([[[[]]]], [0] * 5000),
    )
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
VALUES = st.one_of(STRANGE, SCALARS, st.lists(SCALARS, max_size=4))


@st.composite
def changed_document(draw):
    """A request in which one or two values are replaced, removed or repeated."""
    path, document = draw(st.sampled_from(DOCUMENTS))
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        places = nodes(document)
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        parent = document
        for key in way:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
        if change == "remove":
            del parent[last]
        elif change == "repeat":
            parent[last] = [copy.deepcopy(parent[last]) for _ in range(draw(st.integers(0, 70)))]
        else:
            parent[last] = copy.deepcopy(draw(VALUES))
    return "POST", path, json.dumps(document).encode(), {}


def damage(draw, content):
    """Bytes cut off, overwritten or inserted."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        change, new = draw(st.sampled_from(["cut", "write", "insert"])), draw(st.binary(max_size=6))
        if change == "cut":
            del content[at : at + draw(st.sampled_from([1, 7, 10**6]))]
        else:
            content[at : at + (len(new) if change == "write" else 0)] = new
    return bytes(content)


@st.composite
def damaged_image(draw):
    """A request for a damaged image file."""
    content = damage(draw, draw(st.sampled_from(FILES)))
    body = {"instances": [{"b64": base64_of(content)}]}
    return "POST", PREDICT, json.dumps(body).encode(), {}


@st.composite
def damaged_body(draw):
    """A request whose body is damaged, text and binary tensors alike."""
    path, document = draw(st.sampled_from(DOCUMENTS))
    body, headers = json.dumps(document).encode(), {}
    if draw(st.booleans()):
        length = draw(st.sampled_from([str(len(body)), "0", "-1", "x", "1e3", str(2**64)]))
        headers["Inference-Header-Content-Length"] = length
        body += draw(st.binary(max_size=12))
    return "POST", path, damage(draw, body), headers


PARTS = ["/v1", "/v2", "/models", "/digits", "/versions", "/1", "/2", ":predict", ":explain"]
PARTS += ["/infer", "/metadata", "/ready", "/health/live", "/thumbnails", "/0", "/metrics", "/"]
PARTS += [
    "/repository",
    "/load",
    "/..",
    "%2f..",
    "%00",
    "//",
    "?a=b",
    "#",
    "%",
    "%ff",
    ":",
    "~",
    "*",
]
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X"]
HEADER_NAMES = ["Content-Type", "Content-Encoding", "Accept", "Accept-Encoding", "Cookie", "Range"]
HEADER_NAMES += ["ce-id", "ce-specversion", "ce-type", "ce-source", "Authorization", "Upgrade"]
LATIN = st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85")
HEADERS = st.dictionaries(st.sampled_from(HEADER_NAMES), st.text(LATIN, max_size=12), max_size=3)


@st.composite
def strange_address(draw):
    """A request to an address put together at random, with headers of any content."""
    path = "/" + "".join(draw(st.lists(st.sampled_from(PARTS), max_size=7))).lstrip("/")
    body = draw(st.sampled_from([None, b"", b"{}", b'{"instances": []}', b"\xff", b"[" * 9000]))
    return draw(st.sampled_from(METHODS)), path, body, draw(HEADERS)


@st.composite
def damaged_message(draw):
    """A damaged gRPC message, and the call that it is sent with."""
    return (
        "gRPC",
        draw(st.sampled_from(["ModelInfer", "ModelInfer", "ModelMetadata"])),
        (damage(draw, draw(st.sampled_from(MESSAGES)))),
        {},
    )


def field(number, content):
    """A length-delimited field of a protobuf message."""
    length, sizes = len(content), b""
    while length > 127:
        sizes, length = sizes + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + sizes + bytes([length]) + content


def infer_message(content):
    """A `ModelInferRequest` with one file as raw contents."""
    tensor = field(1, b"encoded") + field(2, b"BYTES") + field(3, b"\x01")
    raw = struct.pack("<I", len(content)) + content
    return field(1, b"digits") + field(5, tensor) + field(7, raw)


MESSAGES = [infer_message(content) for content in FILES]
STRATEGY = st.one_of(
    changed_document(), damaged_image(), damaged_body(), strange_address(), damaged_message()
)


class Client:
    """Sends requests over one connection of each protocol, as long as they last."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=30)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")

    def close(self):
        self.connection.close()
        self.channel.close()

    def send(self, method, path, body, headers):
        """The status, or gRPC's name of it."""
        if method == "gRPC":
            call = self.channel.unary_unary(f"/inference.GRPCInferenceService/{path}")
            try:
                call(body, timeout=30)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


@pytest.fixture(scope="module")
def client(server):
    client = Client(server)
    yield client
    client.close()


def test_the_undamaged_messages_are_accepted(client):
    for message in MESSAGES:
        assert client.send("gRPC", "ModelInfer", message, {}) == "OK"
    for path, document in DOCUMENTS[:-1]:
        assert client.send("POST", path, json.dumps(document).encode(), {}) == 200
    for content in FILES:
        body = {"instances": [{"b64": base64.b64encode(content).decode()}]}
        assert client.send("POST", PREDICT, json.dumps(body).encode(), {}) == 200


@pytest.mark.slow
# Hypothesis takes it for a strategy's doing if another thread of this process draws from `random`.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_damaged_requests_are_never_the_servers_fault(server, client):
    seen, before = {}, server.memory_mb()

    @settings(
        max_examples=REQUESTS // AT_ONCE,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # No shrinking: the assertion names the request.
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(STRATEGY, min_size=AT_ONCE, max_size=AT_ONCE))
    def send(requests):
        for request in requests:
            status = client.send(*request)
            seen[status] = seen.get(status, 0) + 1
            fine = status < 500 if isinstance(status, int) else status in FINE
            assert fine, (status, request)

    send()
    assert sum(seen.values()) >= REQUESTS
    assert {200, 400, 404, 405, "OK", "INVALID_ARGUMENT"} <= set(seen)
    assert server.process.poll() is None
    assert server.memory_mb() < before + 150
    assert not any("Traceback" in line for line in server.lines)
    assert server.predict(PIXELS)[0] == 200
