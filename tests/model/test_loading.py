"""Weights as people have them: loaded where their meaning is certain and said, else refused in one line."""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file, save_model  # noqa: E402
from support import Tiny  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from edgepv.errors import UsageError  # noqa: E402
from edgepv.model.checkpoint import build, from_files, load_notes  # noqa: E402
from edgepv.model.spec import read_spec  # noqa: E402

State = dict[str, Any]


class Loader:
    """Loads files for one builder. The messages of refusals are one line each."""

    def __init__(self, tiny: Tiny, folder: Path) -> None:
        self.spec, self.builder, self.folder = read_spec(tiny.spec), tiny.model, folder
        self.state: State = load_file(tiny.weights)

    def torch_file(self, content: Any, name: str = "w.pth") -> Path:
        torch.save(content, self.folder / name)
        return self.folder / name

    def loads(self, file: Path, *, builder: str | None = None, trust: bool = True) -> tuple[State, str]:
        """(the built module's weights, what was said)."""
        checkpoint = from_files(builder or self.builder, file, self.spec, trust_pickle=trust)
        return build(checkpoint).state_dict(), " ".join(load_notes(checkpoint))

    def refuses(self, file: Path, *, builder: str | None = None, trust: bool = True) -> str:
        with pytest.raises(UsageError) as caught:
            build(from_files(builder or self.builder, file, self.spec, trust_pickle=trust))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def gives(self, file: Path, *, trust: bool = True) -> str:
        """What was said while the file gave exactly the weights that were trained."""
        made, said = self.loads(file, trust=trust)
        assert_same(made, self.state)
        return said


def assert_same(made: State, state: State) -> None:
    assert made.keys() == state.keys()
    assert all(torch.allclose(made[k].float(), state[k].float(), atol=1e-6) for k in state)


@pytest.fixture
def loader(tiny_clip: Tiny, tmp_path: Path) -> Loader:
    return Loader(tiny_clip, tmp_path)


WRAPPED = """
import runpy
from torch import nn
class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.{1} = runpy.run_path("{0}")["TinyClip"]()
    def forward(self, x):
        return self.{1}(x)
"""


def under(prefix: str, state: State) -> State:
    return {prefix + k: v for k, v in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "backbone.", "model.net.", "a.b.c."])
def test_one_prefix_around_all_names_is_taken_off_and_said(loader: Loader, prefix: str) -> None:
    save_file(under(prefix, loader.state), loader.folder / "w.safetensors")
    said = loader.gives(loader.folder / "w.safetensors", trust=False)
    assert f"'{prefix}'" in said and said.startswith("weights: ")


@pytest.mark.parametrize("prefix", ["", "net.", "x.net."])
def test_a_prefix_that_all_of_the_builders_names_have_is_its_own(loader: Loader, prefix: str) -> None:
    (loader.folder / "net.py").write_text(WRAPPED.format(loader.builder.rpartition(":")[0], "net"))
    save_file(under(f"{prefix}net.", loader.state), loader.folder / "w.safetensors")
    made, said = loader.loads(loader.folder / "w.safetensors", builder=f"{loader.folder / 'net.py'}:Wrapped")
    assert_same(made, under("net.", loader.state))
    assert said == (f"weights: prefix '{prefix}' taken off" if prefix else "")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "_fsdp_wrapped_module."])
def test_the_names_of_wrappers_mean_nothing(loader: Loader, prefix: str) -> None:
    save_file(under(prefix, loader.state), loader.folder / "w.safetensors")
    assert loader.gives(loader.folder / "w.safetensors", trust=False) == ""


def test_a_wrapper_that_the_builder_adds_is_put_on(loader: Loader) -> None:
    (loader.folder / "net.py").write_text(WRAPPED.format(loader.builder.rpartition(":")[0], "inner"))
    save_file(under("model.", loader.state), loader.folder / "w.safetensors")
    made, said = loader.loads(loader.folder / "w.safetensors", builder=f"{loader.folder / 'net.py'}:Wrapped")
    assert_same(made, under("inner.", loader.state))
    assert "prefix 'model.' taken off; prefix 'inner.' put on" in said


def _lightning(state: State) -> Any:
    return {
        "epoch": 3,
        "state_dict": {**under("model.", state), "loss.weight": torch.ones(2), "acc.total": torch.zeros(1)},
        "hyper_parameters": argparse.Namespace(lr=0.1),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "pytorch-lightning_version": "2.4.0",
    }


TRAINING: dict[str, tuple[Callable[[State], Any], str]] = {
    "lightning": (_lightning, "'state_dict'"),
    "slowfast": (
        lambda s: {"epoch": 1, "model_state": s, "optimizer_state": {}, "cfg": "A: 1"},
        "'model_state'",
    ),
    "timm": (lambda s: {"state_dict": under("module.", s), "arch": "r50", "args": Path("x")}, "'state_dict'"),
    "mmengine": (
        lambda s: {"meta": {"seed": 0, "env": argparse.Namespace()}, "state_dict": s},
        "'state_dict'",
    ),
    "videomae": (lambda s: {"model": s, "scaler": {"scale": 1.0}, "args": argparse.Namespace()}, "'model'"),
    "deepspeed": (lambda s: {"module": s, "dp_world_size": 1}, "'module'"),
    "nested": (lambda s: {"checkpoint": {"net": s}, "lr": torch.tensor(0.1)}, "'checkpoint/net'"),
    "a list": (lambda s: [s, {"lr": 0.1}], "'0'"),
    "sparse": (lambda s: {**s, "head.weight": s["head.weight"].to_sparse()}, ""),
    "beside a number": (lambda s: {**s, "epoch": 7}, ""),
}


@pytest.mark.parametrize("kind", TRAINING)
def test_a_training_state_gives_its_weights(loader: Loader, kind: str) -> None:
    make, says = TRAINING[kind]
    said = loader.gives(loader.torch_file(make(loader.state)))
    assert says in said
    assert kind != "lightning" or "2 other values left out ('loss.weight', 'acc.total')" in said


def test_an_equal_copy_is_no_second_meaning(loader: Loader) -> None:
    file = loader.torch_file({"model": loader.state, "model_ema": dict(loader.state)})
    assert "'model'" in loader.gives(file)


def test_an_averaged_copy_is_chosen_by_name_and_never_guessed(loader: Loader) -> None:
    averaged = {k: v * 0 for k, v in loader.state.items()}
    file = loader.torch_file({"state_dict": loader.state, "state_dict_ema": averaged})
    said = loader.refuses(file)
    assert "holds 2 different sets of weights" in said and f"--weights '{file}#state_dict'" in said
    made, _ = loader.loads(Path(f"{file}#state_dict_ema"))
    assert_same(made, averaged)
    assert loader.gives(Path(f"{file}#state_dict"))
    assert "no weights 'ema'. It holds: state_dict, state_dict_ema" in loader.refuses(Path(f"{file}#ema"))


def test_a_set_of_weights_inside_of_another_is_chosen_by_its_whole_place(loader: Loader) -> None:
    both = under("model.", loader.state) | under("ema_model.", {k: v * 0 for k, v in loader.state.items()})
    file = loader.torch_file({"state_dict": both}, "w#1.ckpt")
    assert f"Say which: --weights '{file}#state_dict/model'" in loader.refuses(file)
    assert loader.gives(Path(f"{file}#state_dict/model"))


@pytest.mark.parametrize("first", ["", "model."])
def test_an_averaged_copy_under_a_prefix_is_never_guessed_either(loader: Loader, first: str) -> None:
    both = under(first, loader.state) | under("ema_model.", {k: v * 0 for k, v in loader.state.items()})
    save_file(both, loader.folder / "w.safetensors")
    file = loader.folder / "w.safetensors"
    assert f"Say which: --weights '{file}#{first.rstrip('.') or '.'}'" in loader.refuses(file)
    assert_same(loader.loads(Path(f"{file}#{first.rstrip('.') or '.'}"))[0], loader.state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_short_floats_are_taken_and_said(loader: Loader, kind: Any) -> None:
    short = {k: v.to(kind) if v.is_floating_point() else v for k, v in loader.state.items()}
    save_file(short, loader.folder / "w.safetensors")
    made, said = loader.loads(loader.folder / "w.safetensors")
    assert made["conv.weight"].dtype == torch.float32
    assert torch.equal(made["conv.weight"], short["conv.weight"].float())
    assert f"8 tensors are {str(kind).removeprefix('torch.')}" in said


def test_a_batch_norms_count_may_be_missing_or_too_many(loader: Loader) -> None:
    less = {k: v for k, v in loader.state.items() if "num_batches" not in k}
    assert loader.gives(loader.torch_file({**less, "head.total_ops": torch.ones(1)}), trust=True) == ""


def test_a_whole_pickled_module_gives_its_weights_and_runs_nothing(loader: Loader) -> None:
    script = types.ModuleType("gone")
    exec("from torch import nn\nclass Net(nn.Module):\n    pass\n", script.__dict__)
    sys.modules["gone"] = script
    net = script.Net()
    net.conv, net.norm, net.head = nn.Conv3d(3, 16, 3), nn.BatchNorm3d(16), nn.Linear(16, 2)
    net.register_buffer("grid", torch.zeros(2), persistent=False)
    net.load_state_dict(loader.state)
    try:
        file = loader.torch_file({"ema": net, "epoch": 3})
    finally:
        del sys.modules["gone"]
    assert "'ema'" in loader.gives(file)


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("open('hit', 'w').close()",)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_pickle_runs_even_when_it_is_trusted(
    loader: Loader, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    monkeypatch.chdir(loader.folder)
    torch.save({"state_dict": loader.state, "x": Evil()}, "w.pth", _use_new_zipfile_serialization=not legacy)
    loader.gives(loader.folder / "w.pth")
    assert not (loader.folder / "hit").exists()


def test_a_pickle_still_needs_the_users_word(loader: Loader) -> None:
    assert "pass --trust-pickle" in loader.refuses(loader.torch_file(loader.state), trust=False)


def test_what_a_file_is_counts_not_its_suffix(loader: Loader) -> None:
    save_file(loader.state, loader.folder / "w.bin")
    assert loader.gives(loader.folder / "w.bin", trust=False) == ""
    assert "pass --trust-pickle" in loader.refuses(
        loader.torch_file(loader.state, "w.safetensors"), trust=False
    )


@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_archive_gives_its_weights(loader: Loader, how: str) -> None:
    net = _tiny(loader)
    made = torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.rand(1, 3, 4, 32, 32))
    made.save(loader.folder / "model.pt")
    assert loader.gives(loader.folder / "model.pt") == ""


def test_frozen_torchscript_has_no_weights_to_give(loader: Loader) -> None:
    torch.jit.freeze(torch.jit.script(_tiny(loader))).save(loader.folder / "model.pt")
    assert "is frozen TorchScript" in loader.refuses(loader.folder / "model.pt")


def _tiny(loader: Loader) -> Any:
    import tiny

    net = tiny.clip()
    net.load_state_dict(loader.state)
    return net.eval()


def test_pruning_masks_are_applied_and_said(loader: Loader) -> None:
    net = _tiny(loader)
    prune.l1_unstructured(net.conv, "weight", amount=0.5)
    wanted = net.conv.weight.detach().clone()
    made, said = loader.loads(loader.torch_file(net.state_dict()))
    assert torch.equal(made["conv.weight"], wanted) and float((wanted == 0).float().mean()) == 0.5
    assert "pruning masks of 1 layers applied (50% of their weights are 0)" in said


NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": torch.nn.utils.weight_norm,
    "weight_norm over all": lambda m: torch.nn.utils.weight_norm(m, dim=None),
    "weight_norm over inputs": lambda m: torch.nn.utils.weight_norm(m, dim=1),
    "weight_norm parametrized": parametrizations.weight_norm,
    "spectral_norm": torch.nn.utils.spectral_norm,
    "spectral_norm parametrized": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("kind", NORMS)
def test_norms_of_weights_are_computed_as_in_eval_mode(loader: Loader, kind: str) -> None:
    net = _tiny(loader).train()
    NORMS[kind](net.conv)
    net(torch.rand(1, 3, 4, 32, 32))
    net.eval()(torch.rand(1, 3, 4, 32, 32))
    made, said = loader.loads(loader.torch_file(net.state_dict()))
    assert torch.allclose(made["conv.weight"], net.conv.weight.detach(), atol=1e-6)
    assert f"{kind.split()[0]} of 1 layers computed" in said


@pytest.mark.parametrize("kind", NORMS)
def test_norms_of_half_precision_weights_are_computed_in_float32(loader: Loader, kind: str) -> None:
    net = _tiny(loader).eval()
    NORMS[kind](net.conv)
    halves = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    made, said = loader.loads(loader.torch_file(halves))
    net.load_state_dict(halves)
    net(torch.rand(1, 3, 4, 32, 32))
    assert torch.allclose(made["conv.weight"], net.conv.weight.detach(), rtol=1e-5, atol=1e-7)
    assert "float16, computed with in float32" in said


def test_observers_of_quantization_aware_training_are_left_out(loader: Loader) -> None:
    state = {
        **loader.state,
        "conv.activation_post_process.scale": torch.ones(1),
        "conv.weight_fake_quant.activation_post_process.min_val": torch.ones(16),
        "activation_post_process_0.zero_point": torch.zeros(1),
    }
    assert "3 values of quantization observers left out" in loader.gives(loader.torch_file(state))


BUILDERS = """
import torch
from torch import nn
from torch.nn.utils import prune, parametrizations, parametrize, weight_norm
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 16, 3, (1, 2, 2), 1), nn.BatchNorm3d(16)
        self.head = nn.Linear(16, 2)
    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3, 4)))
class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.LazyConv3d(16, 3, (1, 2, 2), 1), nn.LazyLinear(2)
class Holder(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.m = part
    def forward(self, x):
        return self.m(x)
class Twice(nn.Module):
    def forward(self, w):
        return 2 * w
class Tied(Net):
    def __init__(self):
        super().__init__()
        self.again = self.head
def pruned():
    net = Net()
    prune.identity(net.conv, "weight")
    return net
def normed():
    net = Net()
    weight_norm(net.conv)
    return net
def doubled():
    net = Net()
    parametrize.register_parametrization(net.conv, "weight", Twice())
    return net
def compiled(): return torch.compile(Net(), backend="eager")
def compiled_inside():
    net = Net()
    net.conv = torch.compile(net.conv)
    return net
def parallel(): return nn.DataParallel(Net())
def half(): return Net().half()
def script(): return torch.jit.script(Net().eval())
def trace(): return torch.jit.trace(Net().eval(), torch.rand(1, 3, 4, 32, 32))
def wrapped(): return Holder(script())
def observed():
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat
    net = Net().train()
    net.qconfig = get_default_qat_qconfig("x86")
    return prepare_qat(net)
def ready():
    from torch.ao.quantization import QuantStub
    net = Net()
    net.add, net.quant = nn.quantized.FloatFunctional(), QuantStub()
    return net
def rounded():
    from torch.ao.quantization import quantize_dynamic
    return quantize_dynamic(Net(), {nn.Linear})
def program():
    return torch.export.export(Net().eval(), (torch.rand(1, 3, 4, 32, 32),)).module()
def meta():
    with torch.device("meta"):
        return Net()
def nothing(): Net()
def pair(): return Net(), "config"
net = Net()
def wide(num_classes): return Net() if num_classes == 2 else None
def needy(config): return Net()
def loud():
    print("building")
    return Net()
"""


@pytest.fixture
def builders(loader: Loader) -> Callable[[str], str]:
    (loader.folder / "net.py").write_text(BUILDERS)
    return lambda name: f"{loader.folder / 'net.py'}:{name}"


@pytest.mark.parametrize(
    "name",
    ["pruned", "normed", "compiled", "compiled_inside", "parallel", "half", "Lazy", "net", "wide", "ready"],
)
def test_builders_of_any_wrapping_take_plain_weights(
    loader: Loader, builders: Callable[[str], str], name: str
) -> None:
    made, _ = loader.loads(loader.torch_file(loader.state), builder=builders(name))
    assert_same(made, loader.state)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pruned", "normed", "doubled", "compiled", "parallel"])
def test_builders_of_any_wrapping_take_their_own_weights(
    loader: Loader, builders: Callable[[str], str], name: str
) -> None:
    namespace: dict[str, Any] = {"__name__": "net"}
    exec(BUILDERS, namespace)
    net = namespace[name]()
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(1.5)
        if name == "pruned":
            net.conv.weight_mask[:8] = 0
    x = torch.rand(1, 3, 4, 32, 32)
    file = loader.torch_file(net.state_dict())
    checkpoint = from_files(builders(name), file, loader.spec, trust_pickle=True)
    made = build(checkpoint)
    assert torch.allclose(made(x), net.eval()(x), atol=1e-5)
    assert_same(made.state_dict(), load_file(checkpoint.weights))
    assert not any("mask" in k or "param" in k or k.endswith(("_g", "_v")) for k in made.state_dict())


@pytest.mark.parametrize("saved", ["save_model", "torch"])
def test_tied_weights_that_are_saved_once_are_found_twice(
    loader: Loader, builders: Callable[[str], str], saved: str
) -> None:
    namespace: dict[str, Any] = {"__name__": "net"}
    exec(BUILDERS, namespace)
    net, file = namespace["Tied"](), loader.folder / "w.safetensors"
    save_model(net, str(file)) if saved == "save_model" else torch.save(net.state_dict(), file)
    made, _ = loader.loads(file, builder=builders("Tied"))
    assert torch.equal(made["again.weight"], net.head.weight) and torch.equal(
        made["head.bias"], net.head.bias
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "script",
            "what {} returned is TorchScript, whose layers cannot be taken apart. Return the nn.Module",
        ),
        ("trace", "what {} returned is TorchScript"),
        ("wrapped", "'m' of what {} returned is TorchScript"),
        ("observed", "is prepared for quantization or quantized"),
        ("rounded", "'head' of what {} returned is prepared for quantization or quantized (Linear)"),
        ("meta", "{} returned a module without storage (device meta)"),
        ("nothing", "{} returned nothing, not a torch module. End it with: return the_module"),
        ("pair", "{} returned tuple, not a torch module. Return the module alone"),
        ("program", "{} returned a program of torch.export, not a model. Return the nn.Module"),
        (
            "needy",
            "needs the argument 'config'; it must need none. Put a function without arguments beside it",
        ),
        ("missing", "net.py has no function 'missing'"),
    ],
)
def test_what_a_builder_may_not_return_is_named(
    loader: Loader, builders: Callable[[str], str], name: str, says: str
) -> None:
    said = loader.refuses(loader.torch_file(loader.state), builder=builders(name))
    assert says.format(builders(name)) in said


def test_what_a_builder_prints_is_no_result(
    loader: Loader, builders: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    loader.loads(loader.torch_file(loader.state), builder=builders("loud"))
    out, err = capsys.readouterr()
    assert (out, "building" in err) == ("", True)


def _bytes(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "weights")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (_bytes(b""), "is empty (0 bytes), no weights. Copy or download it again"),
        (_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"), "git lfs pull"),
        (_bytes(b"\n<!DOCTYPE html><html>sign in</html>"), "is a web page (HTML or XML), no weights"),
        (_bytes(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "is a web page"),
        (_bytes(json.dumps({"weight_map": {}}).encode()), "is JSON, no weights. Give the file of weights"),
        (_bytes(gzip.compress(b"w")), "is a compressed file or an archive, no weights. Unpack it"),
        (_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 64), "is HDF5 (Keras), no weights"),
        (_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 64), "is a converted model, no weights"),
        (_bytes(b"\x93NUMPY\1\0"), "is a NumPy array, no weights"),
        (_bytes(b"\xff" * 100), "neither safetensors nor what torch.save writes"),
        (_bytes((1000).to_bytes(8, "little") + b'{"a":'), "it ends after 13 bytes. It may be truncated"),
        (_bytes(b"PK\3\4" + b"\0" * 100), "the end of its zip is missing. It may be truncated"),
        (_bytes(pickle.dumps({"a": 1})), "is a pickle that torch.save did not write, no weights. Save it"),
        (lambda path: torch.save({"a": torch.ones(2, device="meta")}, path), "'a' has a shape and no values"),
        (
            lambda path: torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}, path),
            "'a' is already quantized. Give the float weights",
        ),
        (_zip, "is a zip of other files, no weights"),
        (lambda path: path.mkdir(), "is a folder. --weights wants one file"),
        (lambda path: torch.save({"epoch": 1, "cfg": "x"}, path), "holds no weights (keys: epoch, cfg)"),
        (lambda path: torch.save([1, 2], path), "holds no weights (a list)"),
    ],
    ids=range(19),
)
def test_files_that_are_no_weights_are_named_for_what_they_are(
    loader: Loader, write: Callable[[Path], Any], says: str
) -> None:
    write(loader.folder / "w.pth")
    assert says in loader.refuses(loader.folder / "w.pth")


def test_a_training_state_cut_short_is_told(loader: Loader) -> None:
    file = loader.torch_file({"state_dict": loader.state})
    file.write_bytes(file.read_bytes()[:-300])
    assert "It may be truncated" in loader.refuses(file)


def _renamed(state: State) -> State:
    return {f"features.{i}.w": v for i, v in enumerate(v for v in state.values() if v.ndim)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {"x.weight": torch.ones(3)}, "of the builder's 9 weights 8 are missing: 'conv.weight', "),
        (lambda s: {"x.weight": torch.ones(3)}, "No name agrees: these are weights of another network"),
        (_renamed, "only names differ: rename the builder's attributes"),
        (lambda s: {k: v for k, v in s.items() if k != "head.bias"}, "1 are missing: 'head.bias'. Give"),
        (
            lambda s: {**s, "aux.weight": torch.ones(2), "aux.bias": torch.ones(2)},
            "2 of the file's have no place in it: 'aux.weight', 'aux.bias'. The builder leaves layers out",
        ),
        (
            lambda s: {k: v for k, v in s.items() if "running" not in k},
            "2 are missing: 'norm.running_mean', 'norm.running_var'. If forward() needs them",
        ),
        (
            lambda s: {**s, "head.weight": torch.ones(400, 16), "head.bias": torch.ones(400)},
            "was trained for 400 labels ('head.weight'), tiny-clip names 2. Name those it was trained for",
        ),
        (
            lambda s: (
                {f"conv.bn.{k[5:]}" if "norm" in k else k: v for k, v in s.items()}
                | {"conv.activation_post_process.scale": torch.ones(1)}
            ),
            "Its batch norms are inside of its convolutions, as layers fused",
        ),
        (lambda s: {"state": {0: {"exp_avg": torch.ones(1)}}}, "That is an optimizer's state"),
        (lambda s: {**s, "conv.lora_A": torch.ones(2)}, "adapters that were not merged"),
        (lambda s: {**s, "conv.scale": torch.ones(1), "conv.zero_point": torch.ones(1)}, "already quantized"),
        (lambda s: {**s, "head.parametrizations.weight.original": torch.ones(2)}, "remove_parametrizations"),
        (
            lambda s: {**s, "conv.weight": torch.ones(16, 3, 1, 3, 3)},
            "1 differ in shape, 'conv.weight' is (16, 3, 1, 3, 3) there and (16, 3, 3, 3, 3) in the builder",
        ),
    ],
)
def test_weights_of_another_network_are_told_by_name_and_cause(
    loader: Loader, change: Callable[[State], State], says: str
) -> None:
    assert says in loader.refuses(loader.torch_file(change(loader.state)))
