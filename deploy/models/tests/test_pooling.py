"""The ways to pool, in the opsets in which graphs of others come."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embed_models.inference import cpu_session
from embed_models.metadata import Pooling
from embed_models.onnx_builder import OnnxBuilder
from embed_models.pooling import pool


@pytest.mark.parametrize("opset", [9, 11, 13, 19])
def test_all_ways_to_pool(opset: int) -> None:
    states = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    valid = np.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], np.int64)

    def pooled(pooling: Pooling) -> NDArray[np.float32]:
        b = OnnxBuilder("x/", opset)
        value = pool(b, pooling, "states")
        model = b.model(
            name="pool",
            inputs=[
                helper.make_tensor_value_info("states", TensorProto.FLOAT, ["b", "s", 3]),
                helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["b", "s"]),
            ],
            outputs=[helper.make_tensor_value_info(value, TensorProto.FLOAT, ["b", 3])],
            value_info=[],
            opsets={"": opset},
            producer="",
        )
        session = cpu_session(model.SerializeToString(), threads=1)
        (vectors,) = session.run(None, {"states": states, "attention_mask": valid})
        return np.asarray(vectors)

    texts = [states[0], states[1, :2]]
    wanted: dict[Pooling, list[NDArray[Any]]] = {
        "mean": [text.mean(0) for text in texts],
        "cls": [text[0] for text in texts],
        "max": [text.max(0) for text in texts],
        "last": [text[-1] for text in texts],
        "weightedmean": [np.average(text, 0, range(1, len(text) + 1)) for text in texts],
    }
    assert wanted.keys() == set(get_args(Pooling))
    for pooling, vectors in wanted.items():
        if opset >= 11 or pooling not in ("last", "weightedmean"):
            np.testing.assert_allclose(pooled(pooling), np.stack(vectors), atol=1e-6)


def test_workers_read_them_all() -> None:
    schemas = Path(__file__).parents[3] / "schemas" / "generated"
    document = json.loads((schemas / "model-metadata.schema.json").read_text("utf-8"))
    known = [one["const"] for one in document["$defs"]["Pooling"]["oneOf"]]
    assert known == list(get_args(Pooling))
