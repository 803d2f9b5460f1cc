"""Channels that others can stand for are folded into them: narrower layers without labels, without training.

What a layer reads is nearly the same if channels are left out that are linear combinations of the others.
Those that stay are chosen by a pivoted Cholesky decomposition of the channels' products over real video, the
combinations are a least-squares fit, and they go into the weights that read the channels: nothing is added.
A whole group of layers that must lose a channel together (residual branches, a gate) keeps the same ones.
How narrow each group gets is shared out so that the answers keep a promised SQNR on video that fitted none;
then all of it fits once more.

Source: Chee et al. 2022, "Model Preserving Compression for Neural Networks" (interpolative decompositions of
what layers read); groups: Torch-Pruning's dependency graph, see ``quantize.prune``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.base.options import option
from edgepv.data.frames import hold_last
from edgepv.errors import EdgepvError, ModelError, UsageError
from edgepv.model.checkpoint import build
from edgepv.model.surgery import parameters
from edgepv.quantize.low_rank import multiplications
from edgepv.quantize.prune import (
    CutError,
    check_rebuilt,
    clip_example,
    never_cut,
    refuse_changed,
    refuse_recurrent,
    silence,
)
from edgepv.quantize.step import CheckpointStep, Training
from edgepv.types import Checkpoint, ModelSpec

DEFAULT_DB = 40.0  # a tenth of the error that a good INT8 adds (30 dB), so both together cost little more
MULTIPLE = 8  # channels: what vector units and INT8 kernels take at once
LEAST_CLIPS = 4  # two thirds fit, the others judge
PROBE = 0.003  # share of a group's energy that is left out when its effect on the answers is measured
ROUNDS = 6  # of sharing out: each is nearer to the promise
PLACES = 10  # for each channel: with fewer, combinations fit what was seen and nothing else (pooled features)
RIDGE = 1e-6  # of the mean energy of a channel: float32 knows no less of a combination


@dataclass(frozen=True)
class Step(CheckpointStep):
    """Groups of channels get as narrow as the answers allow."""

    name = "fold"
    tools = ("torch", "torch-pruning")
    order = 15
    watches = True
    method = "fold"
    done = ("folded", "narrowed by folding channels into others")

    db: float = option(
        DEFAULT_DB,
        "narrow layers by channels that others can stand for, as long as the answers keep this SQNR on "
        f"video; needs no labels (default: {DEFAULT_DB:g} for classifiers that are not pruned; 0: off)",
        key="fold",
        metavar="DB",
        check=lambda db: db == 0 or 10 <= db <= 100,
        hint="give an SQNR from 10 to 100 dB, or 0 for none",
        asks=True,
    )

    @classmethod
    def due(cls, before: Sequence[CheckpointStep]) -> bool:
        """Whether nothing cut the model before."""
        return not any(step.lossy for step in before)

    def requires(self, given: Checkpoint, aid: Training) -> None:
        """Raise UsageError without enough video, and for a model that steps already."""
        if given.rewrite is not None:
            raise UsageError(f"{given.spec.name} is laid out as a step already. Fold first, then stream")
        if len(aid.footage) < LEAST_CLIPS:
            raise UsageError(
                f"--fold looks at video, at least {LEAST_CLIPS} clips of it; there are {len(aid.footage)}. "
                "Give --clips or --footage"
            )

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        """A narrower checkpoint, rebuilt and run once to prove it whole.

        Raises ModelError if the model cannot be traced or does not rebuild, UsageError if nothing is folded.
        """
        module, spec = build(given), given.spec
        before = parameters(module)
        try:
            refuse_recurrent(module, spec)
            reached, widths = _fold(module, spec, aid, self.db)
            counts = [before, parameters(module)]
            folded = self.saved(given, module, out, params=counts, sqnr_db=reached, widths=widths)
            check_rebuilt(module, folded)
        except CutError as e:
            raise ModelError(f"{spec.name} cannot be folded: {e.why}. Use --fold 0") from e
        except EdgepvError:
            raise
        except Exception as e:  # the tracer fails in as many ways as models are written
            line = (str(e).splitlines() or [""])[0][:200]
            raise ModelError(
                f"{spec.name} cannot be folded: {type(e).__name__}: {line}. Export it with --fold 0"
            ) from e
        return folded


@dataclass
class Group:
    """Channels that layers give and read together. root: the layer that names them, ``width`` of them.

    reads: layers that read them, by name, and in the order of the root's channels where each stands there.
    products: of the channels that a reader sees, (width, width) sums over all places. order: channels, those
    that tell most first; left: share of the energy that is not told by so many of them. kept: how many stay.
    effect: share of the answers' energy that is lost for each share that is left out.
    """

    root: str
    width: int
    reads: dict[str, list[int]]
    products: dict[str, np.ndarray] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    left: np.ndarray = field(default_factory=lambda: np.zeros(0))
    kept: int = 0
    effect: float = 0.0

    def widths(self) -> list[int]:
        """Widths it may have, falling: multiples of ``MULTIPLE`` below its own."""
        return list(range((self.width - 1) // MULTIPLE * MULTIPLE, 0, -MULTIPLE))

    def lost(self, kept: int) -> float:
        """Share of the answers' energy that is lost where so many channels stay."""
        return self.effect * float(self.left[kept - 1]) if kept < self.width else 0.0


def _fold(module: Any, spec: ModelSpec, aid: Training, db: float) -> tuple[float, dict[str, list[int]]]:
    """Fold ``module`` in place; (SQNR on the video that judged, root -> widths before and after)."""
    torch = need("torch", extra="compress")
    clips = [_window(clip, spec.frames) for clip in aid.footage]
    judges, fitting = clips[2::3], [clip for i, clip in enumerate(clips) if i % 3 != 2]
    with torch.no_grad():
        groups = _measured(module, _groups(module, spec), fitting)
        wanted = _answers(module, judges)
        for i in aid.progress(range(len(groups))):
            _feel(module, groups[i], judges, wanted)
        reached = _share_out(module, spec, groups, judges, wanted, db)
        narrowed = [g for g in groups if g.kept < g.width]
        if not narrowed:
            raise UsageError(
                f"no channel of {spec.name} can be stood for by others at {db:g} dB. Ask for fewer dB, or "
                "--fold 0"
            )
        _measured(module, narrowed, clips)
        _cut(module, spec, narrowed)
    return reached, {g.root: [g.width, g.kept] for g in narrowed}


def _window(clip: np.ndarray, frames: int) -> np.ndarray:
    """The middle of a clip (T, C, H, W) as (C, frames, H, W)."""
    start = max(0, (len(clip) - frames) // 2)
    return np.ascontiguousarray(hold_last(clip[start : start + frames], frames).transpose(1, 0, 2, 3))


def _answers(module: Any, clips: Sequence[np.ndarray]) -> np.ndarray:
    """(n, ...) answers to clips (C, T, H, W), one by one, as the model was specified."""
    import torch

    return np.concatenate([module(torch.from_numpy(clip[None])).numpy() for clip in clips])


def _graph(module: Any, spec: ModelSpec) -> Any:
    """Torch-Pruning's dependency graph; gradients are how it traces."""
    import torch

    tp = need("torch_pruning", extra="compress")
    with torch.enable_grad():
        module.requires_grad_(True)
        graph = tp.DependencyGraph().build_dependency(module, (clip_example(spec),))
    module.requires_grad_(False)
    return graph


def _groups(module: Any, spec: ModelSpec) -> list[Group]:
    """The groups that can be folded: every reader is dense, and only per-channel layers lie between."""
    from torch import nn

    names = {m: name for name, m in module.named_modules()}
    found = []
    for group in _graph(module, spec).get_all_groups(ignored_layers=never_cut(module, spec)):
        root, width = group[0].dep.target.module, len(group[0].idxs)
        reads: dict[str, list[int]] = {}
        whole = root in names
        for item in group:
            layer, handler = item.dep.target.module, item.dep.handler.__name__
            if layer not in names:
                whole = whole and not isinstance(layer, nn.Parameter)
            elif "in_channels" in handler and not _own_channels(layer):
                places = dict(zip(item.root_idxs, item.idxs))
                whole = whole and _dense(layer) and len(places) == len(item.idxs) == width
                reads[names[layer]] = [places[i] for i in range(width)] if whole else []
            else:
                whole = whole and _per_channel(layer) and len(item.idxs) == width
        if whole and reads and width > MULTIPLE:
            found.append(Group(names[root], width, reads, kept=width))
    return found


def _dense(layer: Any) -> bool:
    """Whether every output of a layer reads all its inputs."""
    from torch import nn

    convolution = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1
    return convolution or isinstance(layer, nn.Linear)


def _own_channels(layer: Any) -> bool:
    """Whether each output of a convolution reads one input, so that channels pass it by themselves."""
    return (
        getattr(layer, "groups", 1) == getattr(layer, "in_channels", 0) == getattr(layer, "out_channels", -1)
    )


def _per_channel(layer: Any) -> bool:
    """Whether each output of a layer can go without another one changing."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    return _dense(layer) or _own_channels(layer) or isinstance(layer, _BatchNorm | nn.PReLU)


def _measured(module: Any, groups: Sequence[Group], clips: Sequence[np.ndarray]) -> list[Group]:
    """The groups that clips (C, T, H, W) show enough of, with products, order and what is left set."""
    sums: dict[str, np.ndarray] = {}
    places: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def add(_: Any, given: tuple[Any, ...]) -> None:
            import torch

            x = given[0]
            rows = x.movedim(1, -1) if isinstance(module.get_submodule(name), _convolutions()) else x
            rows = rows.reshape(-1, rows.shape[-1])
            places[name] = places.get(name, 0) + len(rows)
            sums[name] = sums.get(name, 0) + torch.einsum("ni,nj->ij", rows, rows).double().numpy()

        return add

    names = {name for group in groups for name in group.reads}
    hooks = [module.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        _answers(module, clips)
    finally:
        for hook in hooks:
            hook.remove()
    seen = [g for g in groups if all(places.get(n, 0) >= PLACES * g.width for n in g.reads)]
    for group in seen:
        weighted = np.zeros((group.width, group.width))
        for name, at in group.reads.items():
            group.products[name] = sums[name][np.ix_(at, at)]
            weighted += _weighted(module.get_submodule(name), at, group.products[name])
        group.order, group.left = pivoted(weighted)
    return seen


def _convolutions() -> tuple[type, ...]:
    from torch import nn

    return (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _weighted(layer: Any, places: Sequence[int], products: np.ndarray) -> np.ndarray:
    """Products of the channels, each as large as the weights that read it make it."""
    size: np.ndarray = layer.weight.movedim(1, 0).flatten(1).norm(dim=1).double().numpy()[list(places)]
    weighted: np.ndarray = products * size[:, None] * size
    return weighted


def pivoted(products: np.ndarray) -> tuple[list[int], np.ndarray]:
    """(channels in the order in which they tell most of the others, share of energy left after each).

    products: symmetric, positive semidefinite (n, n). Source: Higham 2002, "Accuracy and Stability of
    Numerical Algorithms", section 10.3 (Cholesky with complete pivoting), stopped where rounding begins.
    """
    n = len(products)
    left = np.diag(products).astype(np.float64)
    total = max(float(left.sum()), np.finfo(np.float64).tiny)
    columns, order, shares = np.zeros((n, n)), [], np.zeros(n)
    free = np.ones(n, bool)
    for k in range(n):
        pivot = int(np.argmax(np.where(free, left, -1.0)))
        if left[pivot] > n * np.finfo(np.float64).eps * total:
            columns[:, k] = (products[:, pivot] - columns[:, :k] @ columns[pivot, :k]) / math.sqrt(
                left[pivot]
            )
            left = np.maximum(left - columns[:, k] ** 2, 0.0)
        order.append(pivot)
        free[pivot], left[pivot] = False, 0.0
        shares[k] = left.sum() / total
    return order, shares


def combinations(products: np.ndarray, kept: Sequence[int]) -> np.ndarray:
    """(n, kept): every channel as a combination of those that are kept, by least squares."""
    inner = products[np.ix_(kept, kept)]
    inner = inner + RIDGE * np.trace(inner) / len(kept) * np.eye(len(kept))
    fit: np.ndarray = np.linalg.solve(inner, products[kept]).T
    fit[list(kept)] = np.eye(len(kept))
    return fit


def _folded(layer: Any, places: Sequence[int], group: Group, name: str, kept: Sequence[int]) -> Any:
    """The weight of a reader in which the kept channels do the work of all; the others' columns are zero."""
    import torch

    weight = layer.weight.double()
    fit = torch.from_numpy(combinations(group.products[name], kept))
    inputs = torch.as_tensor(list(places))
    mixed = torch.einsum("oc...,ck->ok...", weight[:, inputs], fit)
    weight = weight.index_fill(1, inputs, 0.0).index_copy(1, inputs[list(kept)], mixed)
    return weight.to(layer.weight.dtype)


def _apply(module: Any, group: Group) -> None:
    """Fold a group's readers in place: what it computes is what it will once the other channels are cut."""
    kept = sorted(group.order[: group.kept])
    for name, places in group.reads.items():
        layer = module.get_submodule(name)
        layer.weight.copy_(_folded(layer, places, group, name, kept))


def _trial(module: Any, groups: Sequence[Group], judges: Sequence[np.ndarray]) -> np.ndarray:
    """What the module would answer with these groups folded; its weights are put back."""
    names = {name for group in groups for name in group.reads}
    before = {name: module.get_submodule(name).weight.clone() for name in names}
    try:
        for group in groups:
            _apply(module, group)
        return _answers(module, judges)
    finally:
        for name, weight in before.items():
            module.get_submodule(name).weight.copy_(weight)


def _feel(module: Any, group: Group, judges: Sequence[np.ndarray], wanted: np.ndarray) -> None:
    """Set how much the answers lose for what the group leaves out, by folding it alone once."""
    from edgepv.metrics.stats import sqnr_db

    fitting = [w for w in group.widths() if group.left[w - 1] >= PROBE]
    group.kept = max(fitting) if fitting else MULTIPLE
    left = float(group.left[group.kept - 1])
    error = 10 ** (-sqnr_db(wanted, _trial(module, [group], judges)) / 10)
    group.effect = error / left if left else 0.0
    group.kept = group.width


def _share_out(
    module: Any,
    spec: ModelSpec,
    groups: Sequence[Group],
    judges: Sequence[np.ndarray],
    wanted: np.ndarray,
    db: float,
) -> float:
    """Set how many channels every group keeps, so that all together reach ``db``; the SQNR reached.

    Errors of groups add up nearly, and where they do not, the next round is given as much less.
    """
    from edgepv.metrics.stats import sqnr_db

    costs = _Costs(module, spec, groups)
    allowed = budget = 10 ** (-db / 10)
    best: tuple[float, list[int], float] = (math.inf, [g.width for g in groups], math.inf)
    for _ in range(ROUNDS):
        _greedy(groups, costs, budget)
        reached = sqnr_db(wanted, _trial(module, [g for g in groups if g.kept < g.width], judges))
        spent = 10 ** (-reached / 10)
        if reached >= db and costs.now() < best[0]:
            best = (costs.now(), [g.kept for g in groups], reached)
        if 0.8 * allowed <= spent <= allowed:
            break
        budget *= min(2.0, max(0.1, 0.9 * allowed / max(spent, 1e-12)))
    for group, kept in zip(groups, best[1]):
        group.kept = kept
    return best[2]


def _greedy(groups: Sequence[Group], costs: _Costs, budget: float) -> None:
    """Narrow, from whole, the group that saves most for what it loses, as long as the budget allows."""
    for group in groups:
        group.kept = group.width
    spent = 0.0
    while True:
        moves = list(_moves(groups, costs, budget - spent))
        if not moves:
            return
        _, group, kept, more = max(moves, key=lambda move: move[0])
        group.kept, spent = kept, spent + more


def _moves(
    groups: Sequence[Group], costs: _Costs, budget: float
) -> Iterator[tuple[float, Group, int, float]]:
    """(saving for a loss, group, its width then, loss) of the next narrower width of each group."""
    for group in groups:
        kept = next((w for w in group.widths() if w < group.kept), 0)
        more = group.lost(kept) - group.lost(group.kept) if kept else math.inf
        if more <= budget:
            yield costs.saved(group, kept) / max(more, 1e-15), group, kept, more


class _Costs:
    """What a model costs at the widths of its groups: weights and multiplications, in equal shares."""

    def __init__(self, module: Any, spec: ModelSpec, groups: Sequence[Group]) -> None:
        work = multiplications(module, spec)
        size = {name: module.get_submodule(name).weight.numel() for name in work}
        both = [(work, sum(work.values())), (size, sum(size.values()))]
        self.share: dict[str, float] = {
            name: sum(kind[name] / total / 2 for kind, total in both) for name in work
        }
        self.gives = {g.root: g for g in groups}
        self.reads = {name: g for g in groups for name in g.reads}

    def now(self) -> float:
        """Share of the costs that stays."""
        return sum(self._left(name) * share for name, share in self.share.items())

    def saved(self, group: Group, kept: int) -> float:
        """Share of the costs that goes where a group keeps so many channels."""
        touched = sum(self.share.get(name, 0) for name in (group.root, *group.reads))
        return (group.kept - kept) / group.width * touched

    def _left(self, name: str) -> float:
        both = (self.gives.get(name), self.reads.get(name))
        return float(np.prod([g.kept / g.width for g in both if g]))


def _cut(module: Any, spec: ModelSpec, groups: Sequence[Group]) -> None:
    """Fold and cut in place, and prove that nothing else changed."""
    for group in groups:
        _apply(module, group)
    original = copy.deepcopy(module)
    graph = _graph(module, spec)
    for group in groups:
        layer = module.get_submodule(group.root)
        rest = sorted(set(range(group.width)) - set(group.order[: group.kept]))
        cut = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, rest)
        silence(original, module, cut)
        cut.prune()
    refuse_changed(original, module, spec)
