"""The V2 protocol over gRPC: its answers, and how each mistake is told."""

import asyncio
import struct

import grpc
import numpy as np
import pytest
from exporting.fragile import write_fragile
from serving.fakes import FILES, PIXELS, TRUNCATED, check_rows, huge_png, serving


def infer_request(messages, raw=None, version="", name="digits", shape=None, **fields):
    contents = list(FILES.values())
    shape = [len(contents)] if shape is None else shape
    tensor = messages.ModelInferRequest.InferInputTensor(
        name=fields.pop("input", "encoded"), datatype=fields.pop("datatype", "BYTES"), shape=shape
    )
    if raw is None:
        tensor.contents.bytes_contents.extend(fields.pop("contents", contents))
    request = messages.ModelInferRequest(
        model_name=name, model_version=version, id="7", inputs=[tensor]
    )
    if raw is not None:
        request.raw_input_contents.append(raw)
    if "signature" in fields:
        request.parameters["signature_name"].string_param = fields["signature"]
    return request


def test_grpc_gives_what_the_bundle_gives(stub, messages, expected):
    answer = stub.ModelInfer(infer_request(messages, version="1"))
    assert (answer.model_version, answer.id) == ("1", "7")
    outputs = {output.name: output for output in answer.outputs}
    values = np.reshape(outputs["probabilities"].contents.fp32_contents, (-1, 10))
    check_rows(
        [{"probabilities": row} for row in values],
        {"probabilities": expected["probabilities"][:-1]},
    )
    names = [name.decode() for name in outputs["class_name"].contents.bytes_contents]
    assert names == expected["class_name"][:-1]
    raw = b"".join(struct.pack("<I", len(content)) + content for content in FILES.values())
    answer = stub.ModelInfer(infer_request(messages, raw, signature="neighbors"))
    assert answer.outputs[0].name == "neighbor_ids"
    ids = np.frombuffer(answer.raw_output_contents[0], "<i4").reshape(answer.outputs[0].shape)
    np.testing.assert_array_equal(ids, expected["neighbor_ids"][:-1])


@pytest.mark.parametrize("runtime", ["saved_model", "float32"])
@pytest.mark.slow
def test_no_protocol_answers_nan(runtime, served_bundle, messages, tmp_path):
    write_fragile(served_bundle, tmp_path / "digits" / "1")
    white = np.full((4, 4, 3), 255, np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *white.shape]}
    said = "the model's outputs are not finite for this image"
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

    with serving(tmp_path / "digits", f"--runtime={runtime}", grpc=True) as server:
        for name in ("serving_default", "neighbors"):
            status, answer = server.predict(white.tolist(), signature_name=name)
            assert (status, said in answer["error"]) == (500, True)
        body = {"inputs": [{**tensor, "data": white.ravel().tolist()}]}
        status, answer = server.ask("/v2/models/digits/infer", body)
        assert (status, said in answer["error"]) == (500, True)
        assert server.predict(PIXELS.tolist())[0] == 200
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = GRPCInferenceServiceStub(channel)
            request = infer_request(
                messages, white.tobytes(), input="images", datatype="UINT8", shape=[1, 4, 4, 3]
            )
            with pytest.raises(grpc.RpcError) as raised:
                stub.ModelInfer(request)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert said in raised.value.details()


@pytest.mark.parametrize(
    ("datatype", "field"), [("UINT8", "uint_contents"), ("FP32", "fp32_contents")]
)
def test_grpc_takes_pixels(datatype, field, stub, messages, expected):
    tensor = messages.ModelInferRequest.InferInputTensor(
        name="images", datatype=datatype, shape=[1, *PIXELS.shape]
    )
    getattr(tensor.contents, field).extend(PIXELS.ravel().tolist())
    request = messages.ModelInferRequest(model_name="digits", inputs=[tensor])
    outputs = {output.name: output.contents for output in stub.ModelInfer(request).outputs}
    found = {
        "class_id": outputs["class_id"].int_contents[0],
        "probabilities": outputs["probabilities"].fp32_contents,
        "embeddings": outputs["embeddings"].fp32_contents,
    }
    check_rows([found], {name: expected[name][-1:] for name in found})


def test_few_messages_are_received_at_once(messages):
    from supcon_tf.serving.gate import Memory
    from supcon_tf.serving.grpc_service import RECEIVED_AT_ONCE, Interceptor

    class Context:
        at_once = most = 0

        async def read(self):
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            await asyncio.sleep(0.005)
            self.at_once -= 1
            return b"message"

    async def test():
        interceptor, context = Interceptor(Memory(100), lambda: False), Context()
        found = await asyncio.gather(*(interceptor._receive(context) for _ in range(50)))
        assert found == [b"message"] * 50
        assert context.most == RECEIVED_AT_ONCE

    asyncio.run(test())


def test_of_more_than_may_be_held_what_fits_is_answered(server, messages):
    raw = b"".join(struct.pack("<I", len(content)) + content for content in FILES.values())
    small = infer_request(messages, raw).SerializeToString()
    large = infer_request(messages, b"\xff" * 1_900_000).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls = [ask.future(large if at % 5 else small, timeout=60) for at in range(200)]
        codes = [call.code().name for call in calls]
    assert "OK" in codes[::5]
    assert set(codes[::5]) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert {code for at, code in enumerate(codes) if at % 5} <= {
        "INVALID_ARGUMENT",
        "RESOURCE_EXHAUSTED",
    }
    server.wait_for(lambda: "supcon_request_bytes 0.0" in server.ask("/metrics")[1].decode())


def test_a_call_without_a_message_is_refused(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as raised:
            call(iter([]), timeout=10)
    assert raised.value.code().name == "INVALID_ARGUMENT"
    assert raised.value.details() == "the call has no message."


def test_grpc_tells_about_the_model(stub, messages):
    assert stub.ServerReady(messages.ServerReadyRequest()).ready
    assert stub.ModelReady(messages.ModelReadyRequest(name="digits", version="1")).ready
    about = stub.ModelMetadata(messages.ModelMetadataRequest(name="digits"))
    assert list(about.versions) == ["1"]
    assert [tensor.name for tensor in about.inputs] == ["encoded", "images"]


BAD_GRPC = {
    "model": ({"name": "x"}, "NOT_FOUND", "no model 'x' here"),
    "version": ({"version": "2"}, "NOT_FOUND", "version '2' of digits is not served"),
    "no image": ({"contents": [b"x"], "shape": [1]}, "INVALID_ARGUMENT", "not a JPEG"),
    "truncated": ({"contents": [TRUNCATED], "shape": [1]}, "INVALID_ARGUMENT", "not a whole"),
    "huge": ({"contents": [huge_png()], "shape": [1]}, "INVALID_ARGUMENT", "pixels"),
    "shape": ({"shape": [99]}, "INVALID_ARGUMENT", "at most 64"),
    "negative": ({"shape": [-1]}, "INVALID_ARGUMENT", "whole numbers"),
    "datatype": ({"datatype": "FP64"}, "INVALID_ARGUMENT", "Received: 'FP64'"),
    "input": ({"input": "x"}, "INVALID_ARGUMENT", "named encoded or images"),
    "raw": ({"raw": b"123"}, "INVALID_ARGUMENT", "encoded does not fit its shape"),
    "signature": ({"signature": "x"}, "INVALID_ARGUMENT", "Received: 'x'"),
    "too large": ({"raw": bytes(2_100_000)}, "RESOURCE_EXHAUSTED", "larger"),
}


@pytest.mark.parametrize("case", BAD_GRPC)
def test_grpc_refuses_bad_input_with_one_sentence(stub, messages, case):
    arguments, code, message = BAD_GRPC[case]
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(infer_request(messages, **arguments))
    assert raised.value.code().name == code, raised.value.details()
    assert message in raised.value.details()


def test_grpc_refuses_what_is_no_message_and_to_unload(server, stub, messages):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"\xff\xff\xff")
        assert raised.value.code().name == "INVALID_ARGUMENT"
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/inference.GRPCInferenceService/Other")(b"")
        assert raised.value.code().name == "UNIMPLEMENTED"
    for method, request in (
        (stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest),
        (stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            method(request(model_name="digits"))
        assert raised.value.code().name == "PERMISSION_DENIED"
    assert server.ask("/v1/models/digits")[0] == 200
