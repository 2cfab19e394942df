"""Clients that ask a server without pause, and keep what became of every request."""

import contextlib
import http.client
import json
import threading

import grpc
from serving.fakes import base64_of, picture

PNG = base64_of(picture())


class Clients:
    """Threads that ask until told to stop; every answer is kept."""

    def __init__(self, server, count):
        self.server, self.stopped = server, threading.Event()
        self.answers, self.lost, self.turned_away = [], [], 0
        self.threads = [threading.Thread(target=self.client) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def client(self):
        tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": [PNG, PNG]}
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": "class_id"}]})
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=30)
        with contextlib.closing(connection):
            while not self.stopped.is_set():
                try:
                    if connection.sock is None:
                        connection.connect()
                except ConnectionError:
                    self.turned_away += 1
                    return
                self.ask(connection, body)

    def ask(self, connection, body):
        try:
            connection.request("POST", "/v2/models/digits/infer", body)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.lost.append(error)
            connection.close()
            return
        self.answers.append((answer.status, content.get("model_version"), content))

    def wait_for_more(self, count=20):
        """Waits until `count` further requests have been answered."""
        goal = len(self.answers) + count
        self.server.wait_for(lambda: len(self.answers) >= goal or self.lost)

    def versions(self):
        """The versions that answered, without repeats."""
        found = [version for _, version, _ in self.answers]
        return [
            version
            for index, version in enumerate(found)
            if index == 0 or version != found[index - 1]
        ]


class GrpcClients(Clients):
    """The same over gRPC; a call that the server never took up is turned away, not lost."""

    def client(self):
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}") as channel:
            ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            while not self.stopped.is_set():
                try:
                    answer = ask(self.message, timeout=30)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.UNAVAILABLE and not self.must_be_served:
                        self.turned_away += 1
                        return
                    self.lost.append(error)
                    return
                version = self.messages.ModelInferResponse.FromString(answer).model_version
                self.answers.append((200, version, answer))


def grpc_clients(server, messages, count, must_be_served):
    tensor = messages.ModelInferRequest.InferInputTensor(
        name="encoded", datatype="BYTES", shape=[2]
    )
    tensor.contents.bytes_contents.extend([picture()] * 2)
    request = messages.ModelInferRequest(model_name="digits", inputs=[tensor])
    clients = GrpcClients(server, count)
    clients.message, clients.messages = request.SerializeToString(), messages
    clients.must_be_served = must_be_served
    return clients
