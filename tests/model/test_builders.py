"""Builders import what a user expects of their file's place; what they raise is told with their line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgepv.base.cache import imported  # noqa: E402
from edgepv.errors import UsageError  # noqa: E402
from edgepv.model.builder import call_builder  # noqa: E402
from edgepv.types import ModelSpec, TensorSpec  # noqa: E402

Files = Callable[..., Path]
BLOCKS = "from torch import nn\ndef make():\n    return nn.Linear({}, 1)\n"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Writes files below a folder of the test's: files({"a/b.py": text})."""

    def write(texts: dict[str, str]) -> Path:
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def width(builder: str) -> int:
    return int(call_builder(builder).in_features)


def refusal(builder: str) -> str:
    with pytest.raises(UsageError) as caught:
        call_builder(builder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "from blocks import make as build\n",
        "def build():\n    from blocks import make\n    return make()\n",
        "from .blocks import make as build\n",
        "def build():\n    from . import blocks\n    return blocks.make()\n",
        "import importlib\ndef build():\n    return importlib.import_module('blocks').make()\n",
    ],
)
@pytest.mark.parametrize("package", [False, True])
def test_a_builder_imports_what_lies_beside_it(files: Files, text: str, package: bool) -> None:
    folder = files({"nets-1.2/net.py": text, "nets-1.2/blocks.py": BLOCKS.format(5)}) / "nets-1.2"
    if package:
        folder = folder.rename(folder.with_name("nets"))
        (folder / "__init__.py").touch()
    assert width(f"{folder / 'net.py'}:build") == 5
    (folder / "net.py").rename(folder / "my-net v1.2.py")
    assert width(f"{folder / 'my-net v1.2.py'}:build") == 5


def test_a_builder_in_a_package_imports_from_all_of_it(files: Files) -> None:
    root = files(
        {
            "mine/__init__.py": "",
            "mine/common/__init__.py": "",
            "mine/common/blocks.py": BLOCKS.replace("{}", "6"),
            "mine/nets/__init__.py": "",
            "mine/nets/net.py": "from ..common.blocks import make as build\n",
            "mine/nets/other.py": "def build():\n    import mine.common.blocks as b\n    return b.make()\n",
        }
    )
    assert width(f"{root / 'mine/nets/net.py'}:build") == 6
    assert width(f"{root / 'mine/nets/other.py'}:build") == 6


def test_a_builder_imports_from_the_current_folder(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files(
        {"lib_of_mine/blocks.py": BLOCKS.format(7), "nets/net.py": "from lib_of_mine.blocks import make\n"}
    )
    monkeypatch.chdir(root)
    assert width("nets/net.py:make") == 7
    assert width("lib_of_mine.blocks:make") == 7


def test_a_file_may_have_the_name_of_the_library_that_it_imports(files: Files) -> None:
    text = f"import safetensors.torch\nimport colorsys\nimport torch.nn\n{BLOCKS.format(8)}"
    root = files({"safetensors.py": text, "colorsys.py": text, "torch.py": text})
    assert [width(f"{root / n}.py:make") for n in ("safetensors", "colorsys", "torch")] == [8, 8, 8]


def test_two_builders_have_neighbours_of_the_same_name(files: Files) -> None:
    root = files(
        {f"{name}/{file}": text for name, n in (("a", 2), ("b", 3)) for file, text in (
            ("net.py", "from blocks import make as build\n"), ("blocks.py", BLOCKS.format(n)))}
    )  # fmt: skip
    assert [width(f"{root / name / 'net.py'}:build") for name in "aba"] == [2, 3, 2]


def test_what_a_model_imports_while_it_runs_is_found_too(files: Files) -> None:
    root = files(
        {
            "net.py": "from torch import nn\nclass Net(nn.Module):\n"
            "    def forward(self, x):\n        import late_help\n        return late_help.twice(x)\n",
            "late_help.py": "def twice(x):\n    return 2 * x\n",
        }
    )
    assert float(call_builder(f"{root / 'net.py'}:Net")(torch.ones(1))) == 2.0


def test_the_search_path_keeps_its_order(files: Files) -> None:
    before = list(sys.path)
    width(f"{files({'net.py': BLOCKS.format(2)}) / 'net.py'}:make")
    assert sys.path[: len(before)] == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "\nimport no_such_lib.part\n",
            "ModuleNotFoundError: No module named 'no_such_lib' (net.py:2). Install 'no_such_lib', or put",
        ),
        ("\n\ndef build():\n    import no_such_lib\n", "'no_such_lib' (net.py:4). Install 'no_such_lib'"),
        ("from .gone import x\n", "(net.py:1). Correct the import, or put the module there"),
        (
            "def build():\n    raise RuntimeError('no CUDA driver')\n",
            "(net.py:2). Build the model on the CPU: take .cuda() and device='cuda' out",
        ),
        ("def build(:\n", "SyntaxError: invalid syntax (net.py:1). Fix the builder"),
        (
            "def build():\n    return int('x')\n",
            "ValueError: invalid literal for int() with base 10: 'x' (net.py:2)",
        ),
        ("import json\ndef build():\n    return json.loads('{')\n", "(net.py:3). Fix the builder"),
        (
            "import torch\ndef build():\n    return torch.nn.Conv3d(3, 4, 0, groups=5)\n",
            "(net.py:3). Fix the builder",
        ),
    ],
)
def test_what_a_builder_raises_is_told_with_the_users_line(files: Files, text: str, says: str) -> None:
    said = refusal(f"{files({'net.py': text}) / 'net.py'}:build")
    assert says in said and "edgepv_user_" not in said


@pytest.mark.parametrize(
    "text",
    ["from blocks import make\n", "from .blocks import make\n", "def f():\n    from . import blocks\n",
     "import lib.blocks\n", "def f():\n    from lib import blocks\n"],
)  # fmt: skip
def test_what_a_builder_imports_belongs_to_it(
    files: Files, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    root = files({"nets/net.py": text, "nets/blocks.py": "", "lib/blocks.py": ""})
    monkeypatch.chdir(root)
    before = imported(root / "nets/net.py")
    files({"nets/blocks.py" if "lib" not in text else "lib/blocks.py": "x = 1\n"})
    assert imported(root / "nets/net.py") != before


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("size=32", {"size": 48}),
        ("height=32, width=32", {"height": 24, "width": 48}),
        ("width=0.25", {}),  # of channels, as nets of several widths have it
        ("width=64", {}),
        ("size='small', frames=None", {"frames": 4}),
        ("*, num_classes, particles=8", {"num_classes": 2}),
    ],
)
def test_a_builder_is_told_what_it_surely_asks_for(
    files: Files, parameters: str, told: dict[str, int]
) -> None:
    body = "    told, net = dict(locals()), torch.nn.Identity()\n    net.told = told\n    return net\n"
    text = f"import torch\ndef build({parameters}):\n{body}"
    folder = files({"asks.py": text})
    spec = ModelSpec("net", TensorSpec("clip", (1, 3, 4, 24, 48), "NCTHW"), ("a", "b"), frames=4)
    heard = call_builder(f"{folder}/asks.py:build", spec).told
    assert {name: heard[name] for name in told} == told
    assert not {24, 48, 4, 2} & {v for name, v in heard.items() if name not in told}
