"""The weights of a file under the names of a builder's module, where their meaning is certain.

Certain is: without (or with) one prefix, exactly the module's names, in one set of the file only. Everything
else is refused with the names that differ, and with the cause where it is a known one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepv.errors import UsageError
from edgepv.model.weights import COUNTERS, State, WeightsFile, plain

if TYPE_CHECKING:
    from torch import nn

SHOWN = 3
"""Names that an error lists."""
AVERAGES = ("ema", "avg", "average", "teacher")
"""Parts of the address of a set that is no suggestion to begin with."""

CAUSES = (
    (("exp_avg", "momentum_buffer"), "That is an optimizer's state: give the file with the model's weights"),
    (("lora_A", "lora_B", "lora_down"), "They are adapters that were not merged: merge them before saving"),
    (
        ("_packed_params", ".zero_point"),
        "They are already quantized: give the float weights, edgepv quantizes",
    ),
    (
        ("parametrizations.",),
        "A parametrization makes them: call torch.nn.utils.parametrize.remove_parametrizations before saving",
    ),
    (
        ("pre_ops.", "_nncf.", "nncf_module."),
        "NNCF wrapped them: give the weights of the model as it was before",
    ),
)
"""Parts of names that tell where weights come from which fit no plain module -> what to do."""
FUSED = (
    "Its batch norms are inside of its convolutions, as layers fused for quantization-aware training: give "
    "the weights from before, and train with edgepv export --qat"
)


@dataclass(frozen=True)
class Fitted:
    """Weights under the module's names. notes: what was done to get there, for a person."""

    state: State
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Offer:
    """One way to read the file: a set of it, whose names lose ``drop`` and get ``add`` in front."""

    place: str
    drop: str
    add: str
    state: State
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    outside: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def address(self) -> str:
        """What FILE#... calls it."""
        return "/".join(part for part in (self.place, self.drop.rstrip(".")) if part) or "."

    @property
    def whole(self) -> bool:
        return not self.missing and not self.extra


def fitted(
    contents: WeightsFile, module: nn.Module, *, chosen: str | None, file: str, builder: str
) -> Fitted:
    """The one set of weights in ``contents`` that is the module's. chosen: its address, if the user named it.

    Raises UsageError if none is, or if several different ones are.
    """
    own = module.state_dict()
    ties = _ties(module)
    offers = [o for place, state in contents.sets.items() for o in _offers(place, state, own, ties)]
    if chosen is not None:
        known = sorted({o.address for o in offers})
        offers = [o for o in offers if chosen in (o.address, o.place)]
        if not offers:
            raise UsageError(f"{file} holds no weights '{chosen}'. It holds: {', '.join(known[:8])}")
    whole = _different([o for o in offers if o.whole])
    if not whole:
        raise UsageError(_misfit(offers, module, file, builder))
    if len(whole) > 1:
        names = sorted((o.address for o in whole), key=lambda n: any(part in n.lower() for part in AVERAGES))
        raise UsageError(
            f"{file} holds {len(whole)} different sets of weights that fit {builder}: "
            f"{', '.join(names[:4])}. Say which: --weights '{file}#{names[0]}'"
        )
    offer = whole[0]
    state = _completed(offer.state, own, ties)
    return Fitted(state, (*_said(offer), *offer.notes, *_short(state)))


def _offers(place: str, state: State, own: State, ties: dict[str, str]) -> Iterator[_Offer]:
    """Every reading of one set that could be the module's: as it is, with prefixes taken off or put on."""
    bare, notes = plain(state)
    bare, notes = _without_wrapper(bare, own, notes)
    readings = {("", ""), *(("", add) for add in _prefixes(own, bare))}
    for add in {"", _common(own)}:
        readings |= {(drop, add) for drop in _prefixes(bare, [name[len(add) :] for name in own])}
    readings = {(drop.removesuffix(add), "") if drop.endswith(add) else (drop, add) for drop, add in readings}
    complete = {d for d, a in readings if d and all(_has(bare, d + k[len(a) :], set(), {}) for k in own)}
    for drop, add in sorted(readings):
        copies = tuple(d for d in complete if d != drop and d.startswith(drop))
        mine = [k for k in bare if k.startswith(drop) and not (copies and k.startswith(copies))]
        inside = {add + k[len(drop) :]: bare[k] for k in mine}
        split = _split(inside, own)
        yield _Offer(
            place,
            drop,
            add,
            inside,
            missing=tuple(k for k in own if not _has(inside, k, split, ties)),
            extra=tuple(k for k in inside if k not in own and not COUNTERS.search(k) and not _half(k, split)),
            outside=tuple(k for k in bare if k not in set(mine) and not COUNTERS.search(k)),
            notes=notes,
        )


def _without_wrapper(state: State, own: State, notes: tuple[str, ...]) -> tuple[State, tuple[str, ...]]:
    """Names without the part "module" that nn.DataParallel puts in, anywhere, if the module has none."""
    if any("module" in name.split(".") for name in own):
        return state, notes
    bare = {".".join(part for part in k.split(".") if part != "module"): v for k, v in state.items()}
    if len(bare) < len(state) or bare.keys() == state.keys():
        return state, notes
    return bare, ("'module.' of a wrapper like nn.DataParallel taken off", *notes)


def _prefixes(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Prefixes behind which at least half of ``wanted`` stand in ``names``, the most complete first."""
    known, counts = set(wanted), Counter[str]()
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in known:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    return [prefix for prefix, n in counts.most_common(8) if 2 * n >= len(known)]


def _common(own: State) -> str:
    """The longest prefix of whole parts that all names have."""
    firsts = [name.split(".")[:-1] for name in own]
    shared = ""
    for parts in zip(*firsts):
        if len(set(parts)) > 1:
            break
        shared += f"{parts[0]}."
    return shared


def _has(state: State, name: str, split: set[str], ties: dict[str, str]) -> bool:
    """Whether a state brings the module's tensor ``name``, as it is, in two halves, or by its twin."""
    if name in state or name.endswith("num_batches_tracked") or ties.get(name) in state:
        return True
    layer, _, leaf = name.rpartition(".")
    return layer in split and (leaf == "weight" or f"{layer}.1.{leaf}" in state)


def _split(state: State, own: State) -> set[str]:
    """Layers of the module that a low-rank split made two of: "layer.0" and "layer.1", of its rank."""
    layers = {name.removesuffix(".weight") for name in own if name.endswith(".weight") and name not in state}
    halves = {layer: [state.get(f"{layer}.{i}.weight") for i in (0, 1)] for layer in layers}
    return {
        layer
        for layer, two in halves.items()
        if all(half is not None and half.ndim == own[f"{layer}.weight"].ndim for half in two)
    }


def _half(name: str, split: set[str]) -> bool:
    """Whether ``name`` belongs to one of the two layers of a low-rank split."""
    layer, _, leaf = name.rpartition(".")
    whole, _, number = layer.rpartition(".")
    return number in ("0", "1") and whole in split and leaf in ("weight", "bias")


def _ties(module: nn.Module) -> dict[str, str]:
    """Name -> another name of the same parameter, for parameters that stand in two places."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        twin = first.setdefault(id(value), name)
        if twin != name:
            ties |= {name: twin, twin: name}
    return ties


def _different(offers: Sequence[_Offer]) -> list[_Offer]:
    """The offers whose values differ, the plainest reading of each."""
    kept: list[_Offer] = []
    for offer in sorted(offers, key=lambda o: (len(o.place), len(o.drop) + len(o.add))):
        if not any(_equal(offer.state, other.state) for other in kept):
            kept.append(offer)
    return kept


def _equal(one: State, other: State) -> bool:
    import torch

    return set(one) == set(other) and all(torch.equal(one[k], other[k]) for k in one)


def _completed(state: State, own: State, ties: dict[str, str]) -> State:
    """With the twins of tied weights, and the batch norms' counters, which nothing depends on."""
    complete = {k: v for k, v in state.items() if k in own or not COUNTERS.search(k)}
    for name, value in own.items():
        if name not in complete and ties.get(name) in complete:
            complete[name] = complete[ties[name]]
        elif name not in complete and name.endswith("num_batches_tracked"):
            complete[name] = value
    return complete


def _said(offer: _Offer) -> Iterator[str]:
    """What was taken, and what was left out."""
    if offer.place:
        yield f"taken from '{offer.place}'"
    if offer.drop:
        yield f"prefix '{offer.drop}' taken off"
    if offer.add and offer.add != offer.drop:
        yield f"prefix '{offer.add}' put on"
    if offer.outside:
        yield f"{len(offer.outside)} other values left out ({_listed(offer.outside)})"


def _short(state: State) -> Iterator[str]:
    """Kinds of floating-point numbers shorter than float32, which it computes with."""
    short = [v.dtype for v in state.values() if v.is_floating_point() and v.dtype.itemsize < 4]
    for kind, count in Counter(short).items():
        yield f"{count} tensors are {str(kind).removeprefix('torch.')}, computed with in float32"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


def _misfit(offers: Sequence[_Offer], module: nn.Module, file: str, builder: str) -> str:
    """Why no offer fits: the nearest one's names, and the cause where it is a known one."""
    own = module.state_dict()
    best = min(offers, key=lambda o: (len(o.missing), len(o.extra), len(o.drop)))
    told = []
    if best.missing:
        told.append(
            f"of the builder's {len(own)} weights {len(best.missing)} are missing: {_listed(best.missing)}"
        )
    if best.extra:
        told.append(f"{len(best.extra)} of the file's have no place in it: {_listed(best.extra)}")
    return f"{file} does not fit {builder}: {'; '.join(told)}. {_cause(best, module)}"


def _cause(offer: _Offer, module: nn.Module) -> str:
    """What to do about the names that differ."""
    own = module.state_dict()
    for parts, cure in CAUSES:
        if any(part in name for name in offer.extra for part in parts):
            return cure
    if offer.notes and any(".bn." in name for name in offer.extra) and "observers" in " ".join(offer.notes):
        return FUSED
    mine, theirs = (
        Counter(tuple(v.shape) for k, v in state.items() if not COUNTERS.search(k))
        for state in (own, offer.state)
    )
    if mine == theirs:
        return (
            "Their shapes are the same, so only names differ: rename the builder's attributes to the file's"
        )
    if len(offer.missing) == sum(mine.values()):
        return "No name agrees: these are weights of another network, or of another author's code for it"
    if not offer.extra and not {name for name, _ in module.named_parameters()} & set(offer.missing):
        return "If forward() needs them as the builder makes them: register_buffer(..., persistent=False)"
    if not offer.missing:
        return "The builder leaves layers out; if only training needed them, save the weights without them"
    return "Give the weights that were trained with this builder"
