"""Structured pruning: whole channels go, so every engine gets a smaller dense model.

Torch-Pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023)
finds which layers must lose a channel together. It is traced through the clip form, before a model is
streamed: on a stepped model it cuts outputs while the states keep their size, without an error. What was
cut is therefore proven: the smaller net must compute what the original computes with those channels silenced.
A norm that shares one statistic between channels is held at a constant in both meanwhile (see ``_steady``).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.base.options import option
from edgepv.errors import ModelError, UsageError
from edgepv.model.checkpoint import build
from edgepv.model.surgery import parameters
from edgepv.model.training import Trainer
from edgepv.quantize.finetune import batches, windows
from edgepv.quantize.step import CheckpointStep, Training
from edgepv.types import Checkpoint, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_CUT_SHARE = 0.9
"""No layer loses more than this share of its channels, whatever a global ranking says."""
STAGES = 4  # resolutions with a share of their own: more would be more than a person weighs by hand
SPARSE_EPOCHS = 2  # over the clips, before ranking by groups: it ranks, fine-tuning comes after the cut
SPARSE_RATE = 1e-3  # learning rate of these epochs: of a trained model's last ones
SPARSITY = 1e-3  # weight of the group norms in these epochs beside the loss
SAME_TOLERANCE = 1e-4  # of the largest answer: float32 sums over fewer channels, in another order


@dataclass(frozen=True)
class Step(CheckpointStep):
    """Which channels go.

    importance: "magnitude" is the norm of all weights that go with a channel. "taylor" is the change of the
    loss that its removal predicts, |weight * gradient| (Molchanov et al. 2019). "group" is the norm after a
    short training that drives whole groups towards zero (DepGraph's group sparsity). The last two need clips.
    scope: "global" ranks the channels of all layers of a stage (see ``stages``) together.
    """

    name = "prune"
    tools = ("torch", "torch-pruning")
    order = 10
    lossy = True
    needs_clips = True
    done = ("pruned", "pruned")

    ratio: float | tuple[float, ...] = option(
        0.25,
        "share of channels to cut, one for all or one for each stage (resolution) of the model, then "
        "fine-tune on the training clips of --clips (default: 0, off)",
        key="prune",
        kind=tuple[float, ...],
        metavar="SHARE[,SHARE]",
        check=lambda ratio: all(0 <= share < 1 for share in _ratios(ratio)),
        hint="give the share of channels to remove, like 0.25",
        asks=True,
        searched=(0.0, 0.25, 0.5),
        called=lambda cut: "cut " + "/".join(f"{100 * share:g}" for share in cut),
    )
    importance: Literal["magnitude", "taylor", "group"] = option(
        "magnitude",
        "which channels go: magnitude of their weights, taylor (predicted loss), or group (driven to "
        "zero by a short training first) (default: magnitude)",
        metavar="HOW",
    )
    scope: Literal["layer", "global"] = option(
        "layer",
        "layer cuts the same share everywhere, global ranks all channels together (default: layer)",
        metavar="WHERE",
    )
    multiple: int = option(
        8,
        "keep widths multiples of this (default: 8; measure yours: edgepv widths)",
        metavar="N",
        check=lambda n: n >= 1,
        hint="give a number of channels above 0",
    )
    seed: int = 0

    @property
    def learns(self) -> bool:
        """Whether channels are ranked by what clips say."""
        return self.importance != "magnitude"

    def places(self, given: Checkpoint) -> int:
        """One share for each stage."""
        return max(stages(build(given), given.spec).values()) + 1

    def requires(self, given: Checkpoint, aid: Training) -> None:
        """Raise UsageError for a share of nothing, without the clips it learns from, after streaming."""
        if not any(_ratios(self.ratio)):
            raise UsageError(f"--prune {self.ratio}: give the share of channels to remove, like 0.25")
        if self.learns and not aid.clips:
            raise UsageError(
                f"--importance {self.importance} needs labelled training clips: --clips DIR with a train "
                "split. Without them use --importance magnitude"
            )
        if given.rewrite is not None:
            raise UsageError(
                f"{given.spec.name} is already laid out as a step; channels are cut before that, or its "
                "states would keep their old size. Prune first, then stream"
            )

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        """A smaller checkpoint, rebuilt and run once to prove it whole.

        Raises ModelError if the model cannot be traced, addresses its channels by number or does not rebuild
        at its new widths, UsageError if nothing could be removed.
        """
        module = build(given).requires_grad_(True)
        before = parameters(module)
        try:
            self._cut(module, given.spec, aid.clips, aid.truth)
        except UsageError:
            raise
        except Exception as e:  # the tracer fails in as many ways as models are written
            raise ModelError(
                f"{given.spec.name} cannot be pruned: {type(e).__name__}: "
                f"{(str(e).splitlines() or [''])[0][:200]}. Export it with --prune 0"
            ) from e
        after = parameters(module)
        if after >= before:
            shares = ", ".join(f"{share:.0%}" for share in _ratios(self.ratio))
            raise UsageError(
                f"pruning {shares} removed nothing: widths kept multiples of {self.multiple} leave "
                "every layer as it is, and what nn.MultiheadAttention reads or gives is never cut. Ask for a "
                "larger --prune"
            )
        pruned = self.saved(given, module, out, params=[before, after])
        check_rebuilt(module, pruned)
        return pruned

    def _cut(self, module: Any, spec: ModelSpec, clips: Sequence[np.ndarray], truth: Sequence[int]) -> None:
        """Remove channels from ``module`` in place, and prove that nothing else changed."""
        refuse_recurrent(module, spec)
        tp = need("torch_pruning", extra="compress")
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        if self.importance == "taylor":
            importance = tp.importance.GroupTaylorImportance()
            _gradients(module, spec, clips, truth, self.seed)
        elif self.importance == "group":
            importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer="max")
            _drive_to_zero(module, spec, clips, truth, importance, self.seed)
        keep = _planned(module, spec, self, importance)
        original = copy.deepcopy(module)
        for group in _pruner(module, spec, importance, keep).step(interactive=True):
            silence(original, module, group)
            group.prune()
        refuse_changed(original, module, spec)


def _ratios(ratio: float | tuple[float, ...]) -> tuple[float, ...]:
    return ratio if isinstance(ratio, tuple) else (ratio,)


class CutError(ModelError):
    """A model that cannot lose channels; ``why`` is for another step to say in its own words."""

    why = ""


def uncut(spec: ModelSpec, why: str, cure: str = "Use --prune 0") -> CutError:
    """The error of a model that cannot be pruned."""
    error = CutError(f"{spec.name} cannot be pruned: {why}. {cure}")
    error.why = why
    return error


def refuse_changed(silenced: nn.Module, cut: nn.Module, spec: ModelSpec) -> None:
    """Raise CutError unless ``cut`` computes what the original with those channels silenced does."""
    if not _alike(silenced, cut, spec, steady=True):
        raise uncut(
            spec,
            "cutting channels changed what the others compute. It addresses channels by number (a temporal "
            "shift, a split, heads of attention) or keeps a state of fixed width",
        )


def check_rebuilt(module: nn.Module, pruned: Checkpoint) -> None:
    """Raise CutError unless ``pruned`` builds to what ``module`` computes."""
    why = "its answers differ"
    try:
        same = _alike(module, build(pruned), pruned.spec)
    except Exception as e:  # a layer that keeps its old width fails in its own way
        same, why = False, (str(e).splitlines() or [""])[0][:300]
    if not same:
        raise uncut(
            pruned.spec,
            f"the cut model does not rebuild from its weights: {why}. A layer of its builder may not follow "
            "their width",
        )


def refuse_recurrent(module: nn.Module, spec: ModelSpec) -> None:
    """Raise CutError for a model that has a recurrent layer, or only a step and no clip form."""
    from torch import nn

    for name, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            raise uncut(
                spec,
                f"'{name}' is a recurrent layer ({type(layer).__name__}), whose state keeps the old width",
                "Use --prune 0, or prune it in training",
            )
    if type(module).forward is nn.Module.forward:
        raise uncut(
            spec,
            "it has a step and no forward over clips, and a state that a cut layer feeds would keep its size",
            "Give it a forward (1, C, T, H, W) -> logits, or use --prune 0",
        )


def stages(module: nn.Module, spec: ModelSpec) -> dict[str, int]:
    """Stage of every convolution and linear layer, by name: layers of one resolution are one stage.

    At most ``STAGES``: the largest resolutions are one stage where there are more, and what has no
    resolution belongs to the last.
    """
    import torch

    layers = _layers(module)
    seen: dict[str, int] = {}

    def hook(name: str) -> Any:
        def remember(_: Any, __: Any, out: Any) -> None:
            seen.setdefault(name, out.shape[-2] * out.shape[-1] if out.ndim > 3 else 0)

        return remember

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            module(clip_example(spec))
    finally:
        for handle in handles:
            handle.remove()
    pixels = sorted({p for p in seen.values() if p > 1}, reverse=True)
    pixels = pixels[max(0, len(pixels) - STAGES) :]
    return {
        name: next((i for i, p in enumerate(pixels) if seen[name] >= p), max(0, len(pixels) - 1))
        for name in layers
        if name in seen
    }


def clip_example(spec: ModelSpec, seed: int = 0) -> Tensor:
    """A random clip (1, C, T, H, W) of the size the model's clip form takes."""
    torch = need("torch", extra="compress")
    shape = spec.input.shape
    if spec.input.layout == "NCHW":
        shape = (shape[0], shape[1], spec.frames, *shape[2:])
    clip: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return clip


def _layers(module: Any) -> dict[str, Any]:
    from torch import nn

    kinds = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    return {name: m for name, m in module.named_modules() if isinstance(m, kinds)}


def _pruner(
    module: Any, spec: ModelSpec, importance: Any, ratios: dict[Any, float], *, together: bool = False
) -> Any:
    """Torch-Pruning's pruner; layers without a ratio stay whole, and so do those of ``never_cut``."""
    tp = need("torch_pruning", extra="compress")
    return tp.pruner.BasePruner(
        module,
        (clip_example(spec),),
        importance=importance,
        pruning_ratio=0.0,
        max_pruning_ratio=MOST_CUT_SHARE,
        global_pruning=together,
        ignored_layers=never_cut(module, spec),
        pruning_ratio_dict=ratios,
        num_heads={},
        in_channel_groups={},
        out_channel_groups={},
    )


def _planned(module: Any, spec: ModelSpec, step: Step, importance: Any) -> dict[Any, float]:
    """Layer -> share of its channels to remove, so that what stays is a multiple of ``step.multiple``."""
    layers = _layers(module)
    given = _ratios(step.ratio)
    where = stages(module, spec) if len(given) > 1 else dict.fromkeys(layers, 0)
    if len(given) not in (1, max(where.values()) + 1):
        raise UsageError(
            f"--prune has {len(given)} shares, {spec.name} has {max(where.values()) + 1} stages "
            "(resolutions). Give one share, or one for each stage"
        )
    together = step.scope == "global"
    groups = {i: tuple(layers[n] for n, s in where.items() if s == i) for i in range(len(given))}
    ratios: dict[Any, float] = (
        {group: given[i] for i, group in groups.items() if group}
        if together
        else {layer: given[i] for i, group in groups.items() for layer in group}
    )
    first = _pruner(module, spec, importance, ratios, together=together)
    planned = {}
    for group in first.step(interactive=True):
        root, cut = group[0].dep.target.module, len(group[0].idxs)
        width, parts = first.DG.get_out_channels(root), first._get_channel_groups(group)
        kept = max(step.multiple, round((width - cut) / step.multiple) * step.multiple)
        cut = (width - min(kept, width)) // parts * parts
        if cut:
            planned[root] = (cut - 0.5 * parts) / width  # half a channel: the tool rounds up
    return planned


def silence(original: nn.Module, module: nn.Module, group: Any) -> None:
    """Zero in ``original`` what ``group`` is about to cut: the channels and the weights that read them."""
    import torch

    names = {m: name for name, m in module.named_modules()}
    with torch.no_grad():
        for dep, indices in group:
            layer = names.get(dep.target.module)
            if layer is None or getattr(dep.target.module, "weight", None) is None:
                continue
            mine: Any = original.get_submodule(layer)
            if "in_channels" in dep.handler.__name__ and mine.weight.ndim > 1:
                _silence_input(mine, indices)
            else:
                mine.weight[indices] = 0
                if mine.bias is not None:
                    mine.bias[indices] = 0


def _silence_input(layer: Any, indices: Sequence[int]) -> None:
    """Zero the weights that read these input channels; each group of a grouped layer reads its own."""
    groups = getattr(layer, "groups", 1)
    reads, makes = layer.weight.shape[1], layer.weight.shape[0] // groups
    for i in indices:
        group, column = divmod(i, reads)
        layer.weight[group * makes : (group + 1) * makes, column] = 0


def _alike(one: Any, other: Any, spec: ModelSpec, *, steady: bool = False) -> bool:
    """Whether two models give the same numbers, over clips and, where they have a step, over frames.

    steady: hold their norms at the constants that ``one`` sets (see ``_steady``).
    """
    import torch

    one, other = one.eval(), other.eval()
    runs = [_answers]
    if spec.input.layout == "NCHW" and hasattr(one, "step"):
        runs.append(_stepped)
    with torch.no_grad():
        return all(_agree(run, one, other, spec, steady=steady) for run in runs)


def _agree(
    run: Callable[[Any, ModelSpec], list[Any]], one: Any, other: Any, spec: ModelSpec, *, steady: bool
) -> bool:
    """Whether ``run`` gives the same numbers for two models."""
    sizes: dict[int, Any] = {}
    with _steady(sizes) if steady else contextlib.nullcontext():
        wanted = run(one, spec)
    with _steady(sizes) if steady else contextlib.nullcontext():
        got = run(other, spec)
    return all(_close(a, b) for a, b in zip(wanted, got, strict=True))


def _steady(sizes: dict[int, Any]) -> AbstractContextManager[Any]:
    """While it holds, the n-th LayerNorm or GroupNorm to run divides by ``sizes[n]``, then scales as ever.

    Both share a mean and a variance between channels, so fewer channels rescale those that stay, and a right
    cut would look wrong. The first model that runs sets the sizes, the root mean square of each group of
    channels, and the second takes the same: a channel that came into another group is still found.
    """
    from torch.nn import functional as F
    from torch.overrides import TorchFunctionMode

    calls = itertools.count()

    def divided(x: Any, over: Sequence[int], eps: float) -> Any:
        return x / sizes.setdefault(next(calls), (x.square().mean(over, keepdim=True) + eps).sqrt())

    def layer_norm(x: Any, _: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        return _scaled(divided(x, [*range(x.ndim)], eps), weight, bias)

    def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
        x = x.unflatten(1, (groups, -1))
        x = divided(x, [0, *range(2, x.ndim)], eps).flatten(1, 2)
        return _scaled(x.movedim(1, -1), weight, bias).movedim(-1, 1)

    class Steady(TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            stand_in = {F.layer_norm: layer_norm, F.group_norm: group_norm}.get(func, func)
            return stand_in(*args, **(kwargs or {}))

    return Steady()


def _scaled(x: Any, weight: Any, bias: Any) -> Any:
    """A norm's gain and bias, either of which may be None, on the last axes of ``x``."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _answers(module: Any, spec: ModelSpec) -> list[Any]:
    """Logits of the example clip, and what the layer that makes them gives without its bias.

    A softmax or a large bias may hide a fault.
    """
    seen: list[Any] = []

    def look(layer: Any, _: Any, out: Any) -> None:
        seen.append(out if layer.bias is None else out - layer.bias)

    handles = [m.register_forward_hook(look) for m in outputs(module, spec)]
    try:
        return [module(clip_example(spec)), *seen]
    finally:
        for handle in handles:
            handle.remove()


def never_cut(module: nn.Module, spec: ModelSpec) -> list[nn.Module]:
    """Layers that stay whole: those that make the answer, and nn.MultiheadAttention with what it reads.

    The tool ranks attention's channels without regard to the heads they belong to, and a narrower head weighs
    what it attends to differently.
    """
    from torch import nn

    return [*outputs(module, spec), *(m for m in module.modules() if isinstance(m, nn.MultiheadAttention))]


def outputs(module: nn.Module, spec: ModelSpec) -> list[nn.Module]:
    """Linear layers that give one number for each label."""
    from torch import nn

    return [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == len(spec.labels)]


def _close(wanted: Any, got: Any) -> bool:
    """Equal but for rounding."""
    same = tuple(wanted.shape) == tuple(got.shape)
    return same and bool((wanted - got).abs().max() <= SAME_TOLERANCE * wanted.abs().max() + 1e-6)


def _stepped(module: Any, spec: ModelSpec) -> list[Any]:
    """Logits of every frame of the example clip, states carried and of the size they began with."""
    states = tuple(module.init_state().values())
    shapes = [tuple(s.shape) for s in states]
    rows = []
    for frame in clip_example(spec).unbind(2):
        logits, *fresh = module.step(frame, *states)
        states = tuple(fresh)
        if [tuple(s.shape) for s in states] != shapes:
            raise uncut(
                spec,
                "a state keeps its old size while the layer that feeds it was cut",
                "Use --prune 0, or let init_state() follow the layers' widths",
            )
        rows.append(logits)
    return rows


def _gradients(
    module: Any, spec: ModelSpec, clips: Sequence[np.ndarray], truth: Sequence[int], seed: int
) -> None:
    """Leave the gradient of the loss over all clips in the weights; statistics are not touched."""
    import torch
    from torch.nn import functional as F

    rng = np.random.default_rng(seed)
    module.eval()
    for rows in batches(rng, len(clips), 8):
        x = torch.from_numpy(windows(rng, [clips[i] for i in rows], spec.frames))
        F.cross_entropy(module(x), torch.tensor([truth[i] for i in rows]), reduction="sum").backward()


def _drive_to_zero(
    module: Any,
    spec: ModelSpec,
    clips: Sequence[np.ndarray],
    truth: Sequence[int],
    importance: Any,
    seed: int,
) -> None:
    """A short training in which groups of weak channels are pulled to zero together, before they are cut."""
    import torch
    from torch.nn import functional as F

    tp = need("torch_pruning", extra="compress")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pruner = tp.pruner.GroupNormPruner(
        module, (clip_example(spec),), importance=importance, reg=SPARSITY, pruning_ratio=0.0, num_heads={}
    )
    trainer = Trainer(
        module, 0.0, share=pruner.regularize, optimizer=lambda groups: torch.optim.SGD(groups, momentum=0.9)
    )
    module.train()
    for _ in range(SPARSE_EPOCHS):
        for rows in batches(rng, len(clips), 8):
            x = torch.from_numpy(windows(rng, [clips[i] for i in rows], spec.frames))
            loss = F.cross_entropy(module(x), torch.tensor([truth[i] for i in rows]))
            trainer.step(loss, SPARSE_RATE)
    module.eval()
