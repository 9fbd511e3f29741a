"""The handlers of functions/recipes/, run as in production with small models from a seed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batching_watchdog.function.event import Event
from batching_watchdog.function.wire import request_header_block
from batching_watchdog.testing import Function
from support.pages import ROOT
from support.processes import import_path, watchdog

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

RECIPES = ROOT / "functions/recipes"


@pytest.fixture
def recipe(tmp_path):
    """Return the function of a recipe, copied into a folder with its model."""
    functions = []

    def copy(name: str, model: Callable[[Path], None] = lambda _: None) -> Function:
        folder = Path(shutil.copytree(RECIPES / name, tmp_path / name))
        model(folder)
        functions.append(Function(folder))
        return functions[-1]

    yield copy
    for function in functions:
        function.close()


def as_alone(function: Function, bodies: list[bytes], key: str | None) -> None:
    """Check that a batch answers each body as if it were alone."""
    together = function.batch([*bodies, *function.examples])
    assert {answer.status for answer in together} == {200}
    for body, answer in zip(bodies, together, strict=False):
        alone, batched = function.call(body).json(), answer.json()
        if key is not None:
            alone, batched = alone[key], batched[key]
        assert flat(batched) == pytest.approx(flat(alone), rel=1e-3)


def refuses(function: Function, *bodies: bytes) -> None:
    """Check that each of these bodies is its client's error, also beside a good one."""
    *refused, served = function.batch(
        [b"", b"junk", b"{}", b"7", b'{"a": 1}', *bodies, *function.examples[:1]]
    )
    assert [answer.status for answer in refused] == [400] * len(refused)
    assert served.status == 200


def flat(numbers):
    return [each for one in numbers for each in flat(one)] if isinstance(numbers, list) else [numbers]


def test_onnx_runtime(recipe):
    onnx = pytest.importorskip("onnx", reason="onnx makes the model")
    pytest.importorskip("onnxruntime")

    def model(folder: Path) -> None:
        kind, helper = onnx.TensorProto.FLOAT, onnx.helper
        weights = helper.make_tensor("w", kind, [4, 2], [float(number) for number in range(8)])
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "model",
            [helper.make_tensor_value_info("x", kind, ["batch", 4])],
            [helper.make_tensor_value_info("y", kind, ["batch", 2])],
            [weights],
        )
        opset = helper.make_opsetid("", 17)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "model.onnx")

    function = recipe("onnx", model)
    as_alone(function, [json.dumps({"x": [row, 1, 2, 3]}).encode() for row in range(5)], "y")
    assert function.call(b'{"x": [1, 0, 0, 0]}').json() == {"y": [0.0, 1.0]}
    refuses(function, b'{"x": [1, 2, 3]}', b'{"x": null}', b'{"x": [1, 2, 3, null]}')


def test_hugging_face(recipe):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    def model(folder: Path) -> None:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", "was", "fine", "not", "so", "good"]
        (folder / "vocab.txt").write_text("\n".join(words))
        transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "model")
        torch.manual_seed(0)
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = transformers.BertConfig(vocab_size=len(words), **size)
        transformers.BertForSequenceClassification(config).save_pretrained(folder / "model")

    function = recipe("text", model)
    as_alone(
        function, [b'{"inputs": ["fine"]}', b'{"inputs": ["so good", "it was not so good as far"]}'], "scores"
    )
    refuses(function, b'{"inputs": []}', b'{"inputs": "fine"}', b'{"inputs": ["fine", null]}')


def test_images(recipe):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    pytest.importorskip("PIL")

    def model(folder: Path) -> None:
        torch.manual_seed(0)
        torch.save(models.mobilenet_v3_small().state_dict(), folder / "model.pt")

    function = recipe("image", model)
    as_alone(function, list(function.examples), "score")
    refuses(function, function.examples[0][:500])


def test_rows(recipe):
    pytest.importorskip("torch")
    function = recipe("rows")
    as_alone(function, [b"[[1, 2, 3, 4]]", b"[[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]"], None)
    assert len(function.call(b"[[1, 2, 3, 4], [1, 1, 1, 1]]").json()) == 2
    refuses(function, b"[[1, 2, 3]]", b"[[1, 2, 3, 4], [1]]", b'["a"]', b"[[1, 2, 3, 1e39]]")


def test_pydantic(recipe):
    pytest.importorskip("torch")
    function = recipe("pydantic")
    as_alone(function, [b'{"x": [1, 2, 3, 4]}', b'{"x": [0, 0, 0, 1]}'], "y")
    refuses(function, b'{"x": [1, 2, 3]}', b'{"x": [1, 2, 3, NaN]}')
    (error,) = function.call(b'{"x": [1, 2, "a", 4]}').json()["errors"]
    assert error["path"] == "$.x[2]"
    schema = function.call(b"", method="GET", path="/_/schema")
    assert (schema.status, schema.json()["properties"]["x"]["minItems"]) == (200, 4)


ASKED = {"model": "m", "messages": [{"role": "user", "content": "Once upon"}]}


def test_chat_answers_whole_or_piece_by_piece_with_the_same_text(recipe):
    pytest.importorskip("torch")
    function = recipe("chat")
    whole, streamed = function.batch([json.dumps(ASKED | extra).encode() for extra in ({}, {"stream": True})])
    assert (whole.headers["Content-Type"], streamed.headers["Content-Type"]) == (
        "application/json", "text/event-stream",
    )  # fmt: skip
    *events, done = [line[6:] for line in streamed.body.decode().splitlines() if line]
    pieces = [json.loads(event)["choices"][0] for event in events]
    (choice,) = whole.json()["choices"]
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == choice["message"]["content"]
    assert (pieces[-1]["finish_reason"], choice["finish_reason"], done) == ("stop", "stop", "[DONE]")


def test_chat_is_called_by_openais_client():
    openai = pytest.importorskip("openai")
    pytest.importorskip("torch")
    handler, path = (RECIPES / "chat/handler.py").read_text(), import_path(RECIPES / "chat")
    with (
        watchdog(handler, slo_interval="60s", PYTHONPATH=path) as dog,
        openai.OpenAI(base_url=f"http://127.0.0.1:{dog.port}/v1", api_key="none", max_retries=0) as client,
    ):
        ask = client.chat.completions.create
        whole = ask(**ASKED, max_tokens=20).choices[0]
        chunks = [chunk.choices[0] for chunk in ask(**ASKED, max_tokens=20, stream=True)]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
        assert (chunks[-1].finish_reason, whole.finish_reason) == ("length", "length")
        with pytest.raises(openai.BadRequestError, match="messages"):
            ask(model="m", messages=[])


def test_openais_client_reads_the_error_of_a_stream_that_breaks_off():
    openai = pytest.importorskip("openai")
    handler = """
    def start(events, context):
        return [[] for event in events]
    def step(states, context):
        for state in states:
            state.append({"choices": []})
        return [(state[0], False) if len(state) == 1 else ValueError("too long") for state in states]
    """
    with (
        watchdog(handler, slo_interval="60s") as dog,
        openai.OpenAI(base_url=f"http://127.0.0.1:{dog.port}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.create(**ASKED, stream=True) as chunks,
        pytest.raises(openai.APIError, match="too long"),
    ):
        list(chunks)


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [("text", b'{"inputs": ["four", "seven!!"]}', 14), ("rows", b"[[1, 2], [3, 4], [5, 6]]", 4)],
)
def test_weight_is_the_work_of_a_request(name, body, expected):
    scope: dict = {}
    exec((RECIPES / name / "weight.py").read_text(), scope)
    assert scope["weight"](Event(request_header_block(b"POST", b"/", []), body)) == expected
