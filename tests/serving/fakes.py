"""A bundle that needs no TensorFlow, images, and a server in a process of its own."""

import base64
import contextlib
import dataclasses
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from conftest import ROOT
from PIL import Image

from supcon_tf.core.errors import UserError
from supcon_tf.exporting.finite import NotFiniteError
from supcon_tf.exporting.layout import write_sums

SERVE = (sys.executable, str(ROOT / "scripts/serve.py"))


class FakeBundle:
    """Classifies by mean brightness; knows what it was asked, and when to wait or fail."""

    class_names = ("dark", "light")
    num_neighbors = 2

    def __init__(self, version=1, name="digits", side=4):
        self.version, self.name, self.side = version, name, side
        self.batches = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails, self.gives_nan_from = False, 2.0

    def decode(self, encoded):
        if encoded.startswith(b"bad"):
            raise UserError("the bytes are not an image.")
        if encoded.startswith(b"crash"):
            raise RuntimeError("decoder")
        return np.full((self.side, self.side, 3), encoded[-1] / 255, np.float32)

    def scale(self, pixels):
        return np.full((self.side, self.side, 3), pixels.mean() / 255, np.float32)

    def classify(self, images):
        self.batches.append(len(images))
        assert self.may_go_on.wait(10)
        if self.fails:
            raise RuntimeError("model")
        light = images.mean(axis=(1, 2, 3))
        if (bad := np.flatnonzero(light >= self.gives_nan_from)).size:
            raise NotFiniteError(bad.tolist())
        probabilities = np.stack([1 - light, light], axis=1)
        class_id = probabilities.argmax(axis=1).astype(np.int32)
        return {
            "class_id": class_id,
            "class_name": [self.class_names[index] for index in class_id],
            "probabilities": probabilities,
            "embeddings": np.stack([light, np.full_like(light, self.version)], axis=1),
        }

    def nearest(self, embeddings):
        count = len(embeddings)
        return {
            "neighbor_ids": np.tile(np.int32([3, 4]), (count, 1)),
            "neighbor_labels": np.tile(np.int32([0, 1]), (count, 1)),
            "neighbor_class_names": [["dark", "light"]] * count,
            "similarities": np.tile(np.float32([0.9, 0.8]), (count, 1)),
            "out_of_distribution": embeddings[:, 0],
        }


def picture(kind="PNG", size=(20, 30), seed=0, mode="RGB"):
    """The bytes of an image file of noise."""
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (*size, *channels), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def base64_of(content):
    return base64.b64encode(content).decode()


def huge_png(width=100_000, height=100_000):
    """A PNG whose header claims an image of that size."""
    content = bytearray(picture(size=(2, 2)))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return bytes(content)


def write_version(source, target, version, broken=False):
    """Copies a bundle as another version, in one step."""
    hidden = target / f".writing-{version}"
    shutil.copytree(source, hidden)
    metadata = json.loads((hidden / "metadata.json").read_text())
    (hidden / "metadata.json").write_text(json.dumps({**metadata, "version": version}))
    write_sums(hidden)
    if broken:
        with open(hidden / "saved_model.pb", "r+b") as file:
            file.write(b"broken")
    os.rename(hidden, target / str(version))


FILES = {
    "png": picture(),
    "jpeg": picture("JPEG", (31, 17)),
    "grey": picture(mode="L", size=(8, 8)),
    "gif": picture("GIF"),
    "bmp": picture("BMP", (5, 9)),
    "rgba": picture(mode="RGBA"),
}
PIXELS = np.random.default_rng(3).integers(0, 256, (9, 14, 3), np.uint8)
TRUNCATED = picture("JPEG", (64, 64))[:-900]


def check_rows(rows, expected):
    """Compares rows of an answer with what a bundle gave, output by output."""
    for name, values in expected.items():
        found = [row[name] for row in rows if name in row]
        if not found:
            continue
        if np.asarray(values).dtype.kind == "f":
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(found, values)


@dataclasses.dataclass
class Running:
    """A server of `supcon-tf serve`."""

    process: subprocess.Popen
    lines: list[str]
    http_port: int = 0
    grpc_port: int = 0

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def connect(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=30)
        return contextlib.closing(connection)

    def ask(self, path, body=None, headers=(), method=None, connection=None):
        """Status and what the JSON says (bytes, if it is none) of one request."""
        if connection is None:
            with self.connect() as connection:
                return self.ask(path, body, headers, method, connection)
        if not isinstance(body, bytes | type(None)):
            body = json.dumps(body).encode()
        method = method or ("GET" if body is None else "POST")
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(content)
        return answer.status, content

    def predict(self, *instances, connection=None, **fields):
        body = {"instances": list(instances), **fields}
        return self.ask("/v1/models/digits:predict", body, connection=connection)

    def wait_for(self, condition, seconds=30):
        """Waits until something is so, and returns it."""
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until, self.lines[-20:]
            time.sleep(0.01)
        return found

    def wait_for_line(self, text, seconds=30):
        """Waits until the server has said something."""
        return self.wait_for(lambda: [line for line in self.lines if text in line], seconds)[-1]

    def memory_mb(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


@contextlib.contextmanager
def serving(model_dir, *flags, grpc=False, command=SERVE):
    """Starts a server on free ports, and ends it."""
    command = [*command, f"--model_dir={model_dir}", "--http_port=0"]
    command += [*(["--grpc_port=0"] if grpc else []), *flags]
    environment = {**os.environ}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # As a user runs it.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    running = Running(process, [])
    reader = threading.Thread(target=running.read)
    reader.start()
    try:
        line = running.wait_for_line(" at http://", 60)
        running.http_port = int(re.search(r":(\d+) ", line).group(1))
        if grpc:
            line = running.wait_for_line(" at grpc://")
            running.grpc_port = int(line.rsplit(":", 1)[1])
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join()
        process.stderr.close()
