"""A layer that INT8 hurts is found, and is the one that stays in float."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import Tiny

from edgepv import bundle
from edgepv.cli.app import main
from edgepv.data.calibration import calibration_set, rolled_feeds
from edgepv.data.clips import find_clips
from edgepv.data.split import split_clips
from edgepv.errors import ParityError, UsageError
from edgepv.export.to_onnx import lower
from edgepv.metrics.stats import sqnr_db
from edgepv.model.checkpoint import build, from_files
from edgepv.model.spec import read_spec
from edgepv.quantize import int8_onnx, mixed
from edgepv.quantize.ranges import Method
from edgepv.quantize.sensitivity import answers_of, per_layer, rolled_answers
from edgepv.quantize.step import Calibration
from edgepv.runtimes import open_engine
from edgepv.stream import Stepper, Tensors, by_file_names
from edgepv.types import ModelSpec, TensorSpec, Variant

RNG = np.random.default_rng(0)


def quiet(items: Sequence[str], what: str) -> Iterable[str]:
    return items


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Path]:
    """Three convolutions; the first does not look at a channel that is a thousand times louder."""
    folder = tmp_path_factory.mktemp("hurt")
    first = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) * 0.2
    first[:, 0] = 0.0
    middle = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    last = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) * 0.2
    weights = {"w1": first, "w2": middle, "w3": last, "w4": RNG.standard_normal((2, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["frame", "w1"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w2"], ["b"], "middle"),
        helper.make_node("Conv", ["b", "w3"], ["c"], "last", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Flatten", ["d"], ["e"], "flat"),
        helper.make_node("Gemm", ["e", "w4"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "hurt",
        [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, folder / "m.onnx")
    spec = ModelSpec("hurt", TensorSpec("frame", (1, 3, 16, 16)), ("a", "b"))
    names = {"frame": "frame"}, {"logits": "logits"}
    return Variant("onnx-fp32", "onnxruntime", "fp32", "window", "m.onnx", "", spec, None, *names), folder


def frames(count: int, seed: int) -> list[Tensors]:
    rng = np.random.default_rng(seed)
    loud = np.array([1000, 1, 1], np.float32).reshape(1, 3, 1, 1)
    return [{"frame": rng.standard_normal((1, 3, 16, 16), dtype=np.float32) * loud} for _ in range(count)]


def test_the_layer_whose_input_has_a_useless_range_is_the_sensitive_one(hurt: tuple[Variant, Path]) -> None:
    base, folder = hurt
    found = per_layer(base, folder, frames(8, 1), frames(16, 2), quiet)
    assert found[0].layer == "first" and {f.layer for f in found} == {"first", "middle", "last"}
    assert found[0].sqnr_db < 10 and all(f.sqnr_db > 25 for f in found[1:])
    assert all(f.n == 16 for f in found)


def test_mixed_precision_keeps_the_fewest_layers_that_meet_the_target(
    hurt: tuple[Variant, Path], tmp_path: Path
) -> None:
    base, folder = hurt
    feeds, probes = frames(16, 1), frames(16, 2)
    wanted = answers_of(folder / base.path, base, by_file_names(base, probes))

    def reached(target: float | None) -> tuple[set[str], float]:
        made = mixed.Step(target)(base, tmp_path / "m.onnx", Calibration(folder, feeds, "digest"))
        got = answers_of(tmp_path / made.path, base, by_file_names(base, probes))
        assert made.scheme
        return set(made.scheme.kept_float) & {"first", "middle", "last"}, sqnr_db(wanted, got)

    all_int8, low = reached(None)
    assert all_int8 == set() and low < 10
    kept, high = reached(20.0)
    assert kept == {"first"} and high > 20


@pytest.mark.parametrize("step", [int8_onnx.Step(), mixed.Step(keep=2), mixed.Step(20.0)])
def test_the_file_that_is_kept_is_made_on_all_feeds(
    step: int8_onnx.Step | mixed.Step, hurt: tuple[Variant, Path], tmp_path: Path
) -> None:
    base, folder = hurt
    made = step(base, tmp_path / "m.onnx", Calibration(folder, frames(16, 1), "digest"))
    assert made.scheme and made.scheme.calibration_feeds == 16


def even(count: int) -> list[Tensors]:
    """Feeds whose three channels are equally loud."""
    louder = np.array([1000, 1, 1], np.float32).reshape(1, 3, 1, 1)
    return [{"frame": f["frame"] / louder} for f in frames(count, 1)]


def test_the_limit_is_reached_by_the_file_that_is_kept_too(
    hurt: tuple[Variant, Path], tmp_path: Path
) -> None:
    """Nothing is loud while layers are chosen; the last feed then makes the range of the input useless."""
    base, folder = hurt
    feeds = even(16)
    feeds[-1]["frame"][0, 0, 0, 0] = 1000.0
    made = mixed.Step(20.0)(base, tmp_path / "m.onnx", Calibration(folder, feeds, "loud at last"))
    theirs = by_file_names(base, feeds[12:])
    wanted = answers_of(folder / base.path, base, theirs)
    assert sqnr_db(wanted, answers_of(tmp_path / made.path, made, theirs)) >= 20
    assert made.scheme and "first" in made.scheme.kept_float


def test_layers_are_ranked_by_the_ranges_they_will_get(hurt: tuple[Variant, Path]) -> None:
    """One value of 12,288 is loud: all of the range lets it hurt the first layer, 99.99 % does not."""
    base, folder = hurt
    feeds = even(24)
    feeds[0]["frame"][0, 0, 0, 0] = 1000.0

    def first(ranges: Method) -> str:
        return mixed.sensitive_first(*hurt, feeds[:16], feeds[16:], "one loud value", ranges)[0]

    assert first("minmax") == "first" != first("percentile")
    with pytest.raises(UsageError, match="Did you mean 'minmax'"):
        mixed.Step(ranges="minmix")(base, Path("m.onnx"), Calibration(folder, feeds, "digest"))  # type: ignore[arg-type]


def test_a_target_that_no_layer_meets_is_refused(hurt: tuple[Variant, Path], tmp_path: Path) -> None:
    base, folder = hurt
    with pytest.raises(ParityError, match="with any layer in INT8 the logits stay below 199 dB"):
        mixed.Step(199.0)(base, tmp_path / "m.onnx", Calibration(folder, frames(8, 1), "digest"))
    assert not (tmp_path / "m.onnx").exists()


def test_a_stretch_in_float_is_found_where_no_layer_alone_is_to_blame() -> None:
    """The first three layers are enough together, and not without one of them."""
    asked: list[list[str]] = []

    def enough(kept: Sequence[str]) -> bool:
        asked.append([*kept])
        return {"a", "b", "c"} <= set(kept)

    order, count = mixed._shortest(["c", "f", "a", "e", "b", "d"], list("abcdef"), 0, enough)
    assert order[:count] == ["a", "b", "c"] and len(asked) <= 6
    order, count = mixed._shortest(
        ["f", "a", "b", "c", "d", "e"], list("abcdef"), 0, lambda kept: "f" in kept
    )
    assert order[:count] == ["f"]
    assert mixed._shortest(["b", "a"], ["a", "b"], 0, lambda kept: False)[1] == 2


def test_what_lies_between_layers_in_float_is_in_float_too(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 18]> net (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv <kernel_shape = [1, 1]> (x, w)
        sum = Add (a, x)
        b = Conv <kernel_shape = [1, 1]> (sum, w)
        other = Add (b, x)
        y = Conv <kernel_shape = [1, 1]> (other, w)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w"))
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "m.onnx")
    assert int8_onnx.float_nodes(tmp_path / "m.onnx") == ()
    kept = int8_onnx.float_nodes(tmp_path / "m.onnx", ("n0", "n2"))
    assert "n1" in kept and "n3" not in kept


@pytest.fixture(scope="module")
def rolling(
    tiny_step: Tiny, few_clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Variant, Calibration]:
    """(float file of a net with states, what sets its ranges) from a few clips."""
    folder = tmp_path_factory.mktemp("rolling")
    source = from_files(tiny_step.model, tiny_step.weights, read_spec(tiny_step.spec), trust_pickle=False)
    base = lower(build(source), source.spec, folder / "model.onnx")
    clips, _ = split_clips(find_clips(few_clips, source.spec.labels), calibration=8)
    chosen = calibration_set(clips, source.spec)
    stepper = Stepper(open_engine(base, folder).infer, base.spec, base.stream)
    feeds = rolled_feeds(stepper, chosen, base.spec)
    return base, Calibration(folder, feeds, "digest", chosen.last)


@pytest.mark.slow
def test_a_file_is_held_against_the_limit_with_its_own_states(
    rolling: tuple[Variant, Calibration], tmp_path: Path
) -> None:
    base, aid = rolling
    assert 2 <= len(aid.last) <= 4
    wanted = rolled_answers(aid.folder / base.path, base, aid.last)

    def reached(step: mixed.Step) -> tuple[float, Variant]:
        made = step(base, tmp_path / "m.onnx", aid)
        return sqnr_db(wanted, rolled_answers(tmp_path / "m.onnx", made, aid.last)), made

    all_int8 = reached(mixed.Step())[0]
    assert wanted.shape[1] == 2 and 10 < all_int8 < 90
    got, made = reached(mixed.Step(all_int8 + 1))
    convolutions = {n.name for n in onnx.load(aid.folder / base.path).graph.node if n.op_type == "Conv"}
    assert got >= all_int8 + 1 and made.scheme and convolutions & set(made.scheme.kept_float)


@pytest.mark.slow
def test_an_export_with_a_limit_reaches_it_or_says_why_not(tiny_step: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    command = ["export", *tiny_step.arguments, "--precision", "int8", "--min-sqnr", "45", "--out", str(out)]
    assert main(command) == 0
    found = bundle.read(out)
    step = next(s for s in found.variant("onnxruntime-int8").steps if s.name == "int8 model-int8")
    assert step.options == {"min_sqnr_db": 45.0, "keep": 0, "ranges": "minmax", "weight_bits": 8}


@pytest.mark.slow
def test_the_command_prints_draws_and_remembers(
    tiny_step: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from support import CLIPS

    picture = tmp_path / "s.png"
    command = ["sensitivity", *tiny_step.arguments, "--clips", str(CLIPS)]
    assert main([*command, "--picture", str(picture)]) == 0
    said = capsys.readouterr()
    assert "layer alone in INT8" in said.out and picture.read_bytes()[:4] == b"\x89PNG"
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3 and all(-200 <= r["sqnr_db"] <= 200 for r in rows)


def test_a_model_without_clips_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs clips like those its camera will see"):
        from edgepv import pipeline
        from edgepv.base.console import Console
        from edgepv.pipeline.options import Options

        pipeline.sensitivity(Options("pv-conv-nano-handwash"), Console(quiet=True))
