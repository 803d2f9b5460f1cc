"""What converters do not take as it is, they take in parts: the same numbers, in operators that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgepv.errors import UsageError
from edgepv.export.plain import in_parts
from edgepv.export.to_onnx import lower
from edgepv.runtimes import open_engine
from edgepv.types import ModelSpec, TensorSpec

pytestmark = pytest.mark.slow

SPEC = ModelSpec("net", TensorSpec("clip", (1, 3, 8, 10, 10), "NCTHW"), ("a", "b"), frames=8)


@pytest.mark.parametrize("size", [1, 2, 3, (3, 2, 4), (None, 1, 5), (8, 10, 10)])
def test_an_adaptive_pooling_is_the_same_in_parts(size: Any) -> None:
    x = torch.randn(1, 3, 8, 10, 10, generator=torch.Generator().manual_seed(0))
    for pool in (F.adaptive_avg_pool3d, F.adaptive_max_pool3d):
        if pool is F.adaptive_max_pool3d and None in (size if isinstance(size, tuple) else ()):
            continue
        with in_parts():
            got = pool(x, size)
        assert torch.allclose(got, pool(x, size), atol=1e-6)


class Pools(nn.Module):
    """Pools 8 frames to 3 and 10 rows to 4, windows of different length; the layer is a module or a call."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = layer, nn.Linear(3 * 3 * 4 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).flatten(1))


@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool3d((3, 4, 4)), nn.AdaptiveMaxPool3d((3, 4, 4))])
def test_a_window_with_adaptive_pooling_runs(layer: Any, tmp_path: Path) -> None:
    module = Pools(layer).eval()
    variant = lower(module, SPEC, tmp_path / "m.onnx")
    clip = np.random.default_rng(0).standard_normal(SPEC.input.shape, dtype=np.float32)
    got = open_engine(variant, tmp_path).infer({"clip": clip})["logits"]
    assert np.allclose(got, module(torch.from_numpy(clip)).detach().numpy(), atol=1e-5)


class Attends(nn.Module):
    """An encoder of transformer layers over the frames of a clip; ``mask`` says which of them it sees."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.encoder = nn.Linear(300, 8), nn.TransformerEncoder(layer, 1)
        self.head, self.mask = nn.Linear(8, 2), mask

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.transpose(1, 2).flatten(2))
        known: dict[str, Any] = {}
        if self.mask == "causal":
            known = {"mask": nn.Transformer.generate_square_subsequent_mask(8), "is_causal": True}
        if self.mask == "padding":
            known = {"src_key_padding_mask": torch.arange(8)[None] < 2}
        return self.head(self.encoder(tokens, **known).mean(1))


@pytest.mark.parametrize("mask", ["none", "causal", "padding"])
def test_transformer_layers_are_lowered_without_their_fused_path(
    mask: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = Attends(mask).eval()
    capfd.readouterr()
    variant = lower(module, SPEC, tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert torch.backends.mha.get_fastpath_enabled()
    clip = np.random.default_rng(0).standard_normal(SPEC.input.shape, dtype=np.float32)
    got = open_engine(variant, tmp_path).infer({"clip": clip})["logits"]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        wanted = module(torch.from_numpy(clip)).detach().numpy()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert np.allclose(got, wanted, atol=1e-5)


class Singular(Pools):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.zeros(1, 144)) + torch.linalg.svd(x.flatten(2)[0])[1].mean()


def test_an_operator_without_onnx_form_is_named_with_the_users_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        lower(Singular(nn.Identity()).eval(), SPEC, tmp_path / "m.onnx")
    said = str(caught.value)
    assert "it has no form of the operator aten._linalg_svd (test_plain.py:" in said
    assert "torch.linalg.svd(x.flatten(2)[0])" in said and "Write that line with other operators" in said
