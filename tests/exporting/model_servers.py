"""Servers in this process that answer as a served model does, and predictions by them."""

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from supcon_tf.config import PredictConfig
from supcon_tf.exporting.prediction import predict


@contextlib.contextmanager
def serving(answer):
    """A server in this process.

    Args:
        answer: called with the path and the body (None for a GET); gives status and content, bytes
            or what becomes JSON; or None, and the connection is closed without an answer.

    Yields:
        its address.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(None)

        def do_POST(self):
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body):
            found = answer(self.path, body)
            if found is None:
                self.close_connection = True
                return
            status, content = found
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model_server(predictions, models=("digits",), class_names=("cat", "dog")):
    """Answers for `serving`: the metadata, and what `predictions(instances)` gives."""

    def answer(path, body):
        if path == "/v1/models":
            return 200, {"models": list(models)}
        if path == "/v1/models/digits/metadata":
            return 200, {"metadata": {"class_names": list(class_names)}}
        if path == "/v1/models/digits:predict":
            return predictions([base64.b64decode(one["b64"]) for one in body["instances"]])
        return 404, {"error": f"no such path: {path}."}

    return answer


def dogs(instances):
    """Every image is a dog."""
    row = {"class_name": "dog", "probabilities": [0.25, 0.75]}
    return 200, {"predictions": [row] * len(instances)}


def results(model, images, **settings):
    """Every result of `predict`, as a list."""
    return list(predict(PredictConfig(model=str(model), **settings), [str(one) for one in images]))
