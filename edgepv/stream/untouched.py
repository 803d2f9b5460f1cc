"""What the untouched module says of clips in the middle of a long video, where no end of a clip is seen.

The module runs as its author wrote it, on as many frames as wanted, and the calls it makes are only watched.
Nothing here knows of the rewriter, of its clocks, delays or rules.

A convolution or pool over time with a stride of R frames commutes with shifts by R frames: on a long video,
position q of its result is position 0 of the clip that begins with frame q * R, had that clip no ends. Only
the head, which pools the clip, would pool the whole video. So the head is found as what is computed from
the last tensors that grow with the video; what they are on a long video is cut into windows as long as they
are on a clip, and the head runs on each. R, and how far a window moves with it, are read off the shapes of
runs on a few lengths, for which nothing is computed.

Where this does not describe the module, that shows in two ways, and then it is no reference: its head on its
own features of a clip must give its answer to that clip, and its answer must not depend on how long before
the clip the video began.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgepv.base.quiet import hush

LONGER = 131
"""Frames by which the video that tells the head from the rest exceeds a clip: a prime, so that a module that
cuts videos into clips of its own length shows it."""
VIEWS = frozenset(
    (
        "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "movedim",
        "t", "dropout", "relu",
    )
)  # fmt: skip
"""A cut is moved before these: what they make may mix time with something else."""
FIXED = frozenset(("linear", "addmm", "matmul", "__matmul__", "mm", "bmm"))
"""The head begins where one of these cannot take more frames."""
PICKS = frozenset(("index_select", "__getitem__", "gather", "take", "take_along_dim"))
"""With a second tensor they pick what stands at its places."""
AROUND = ("pad", "roll", "setitem", "lstm", "gru", "rnn", "attention", "conv_transpose")
"""Parts of names of calls that, in a head, might see the ends of a clip."""
MOST_STRIDE = 64  # frames between two features; each stride up to it is tried
_MADE_BY = "_edgepv_made_by"
INPUT, UNKNOWN = -2, -1  # in place of a call's number: the video, and nothing that was seen


class UnfitError(Exception):
    """The module cannot be asked about a long video, for this reason."""


@dataclass(frozen=True)
class Call:
    """One function of torch that the module called.

    shapes, makers: of its tensor arguments, the latter as numbers of calls. result: what it returned, without
    numbers in it.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    makers: tuple[int, ...]
    result: Any = None


@dataclass(frozen=True)
class Trace:
    """The calls of one run. answer: its shape, None if the last call raised. end: the call that made it."""

    calls: tuple[Call, ...]
    answer: tuple[int, ...] | None
    end: int


class Watch(TorchFunctionMode):
    """Numbers the calls that are made to torch. Attributes of tensors are read without being counted."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("__get__", "__set__"):
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self.called(self.count - 1, func, args, kwargs or {})

    def called(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """What the module is given back."""
        return func(*args, **kwargs)


class Record(Watch):
    """Keeps what was called on what."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def called(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """The call's own result, noted with what it was called on and marked with its number."""
        given = list(_tensors((args, kwargs)))
        makers = tuple(getattr(t, _MADE_BY, UNKNOWN) for t in given)
        self.calls.append(Call(_name(func), tuple(tuple(t.shape) for t in given), makers))
        result = func(*args, **kwargs)
        self.calls[number] = replace(self.calls[number], result=result)
        for tensor in given[:1] if self.calls[number].name == "__setitem__" else _tensors(result):
            setattr(tensor, _MADE_BY, number)
        return result


class _Taken(BaseException):
    """All that was wanted of a run is there."""


class Take(Watch):
    """Keeps arguments of some calls. wanted: (call, argument) pairs."""

    def __init__(self, wanted: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.taken: dict[tuple[int, int], Tensor] = {}
        self._wanted = wanted

    def called(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """The call's own result; raises _Taken once every wanted argument is there."""
        mine = [w for w in self._wanted if w[0] == number]
        if mine:
            given = list(_tensors((args, kwargs)))
            self.taken.update({w: given[w[1]].clone() for w in mine})
            if len(self.taken) == len(self._wanted):
                raise _Taken
        return func(*args, **kwargs)


class Replay(Watch):
    """Runs the head alone, on other inputs. What is not of the head is not computed: shapes stand for it."""

    def __init__(self, calls: Sequence[Call], head: frozenset[int], given: Mapping[tuple[int, int], Tensor]):
        super().__init__()
        self._calls, self._head, self._given = calls, head, given

    def called(self, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """The head's results on the given inputs, stand-ins for all others; UnfitError for another call."""
        if number >= len(self._calls) or self._calls[number].name != _name(func):
            raise UnfitError("it does not call the same functions each time")
        if number in self._head:
            mine = {w[1]: t for w, t in self._given.items() if w[0] == number}
            args, kwargs = _swapped((args, kwargs), mine, [0])
            return func(*args, **kwargs)
        result = self._calls[number].result
        if self._calls[number].name == "__setitem__":
            return None
        return _stand_in(result) if any(True for _ in _tensors(result)) else func(*args, **kwargs)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", repr(func)))


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple | dict):
        for y in x.values() if isinstance(x, dict) else x:
            yield from _tensors(y)


def _swapped(x: Any, given: Mapping[int, Tensor], at: list[int]) -> Any:
    """``x`` with the tensors at these places exchanged. at: the place of the next one."""
    if isinstance(x, Tensor):
        at[0] += 1
        return given.get(at[0] - 1, x)
    if isinstance(x, dict):
        return {k: _swapped(y, given, at) for k, y in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_swapped(y, given, at) for y in x)
    return x


def _stand_in(value: Any) -> Any:
    """Tensors of the same shapes that take no room."""
    if isinstance(value, Tensor):
        return torch.zeros((), dtype=value.dtype).expand(value.shape)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_stand_in, value))
    return type(value)(map(_stand_in, value)) if isinstance(value, list | tuple) else value


class Untouched:
    """A module asked about clips inside a long video.

    shape: of its clips, (1, C, T, H, W). stride: frames from one clip that it can be asked about to the next.
    late: frames from the first frame an answer is for to the last: the clip's, or those of one position where
    it answers for each position.

    Raises UnfitError, also from its methods, with the reason why it cannot be asked.
    """

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        self.module, self.shape, self.frames = module, tuple(shape), shape[2]
        self._traces: dict[int, Trace] = {}
        self._shapes = _without_numbers(module)
        self._clip, long = self._trace(self.frames), self._trace(self.frames + LONGER)
        if self._clip.answer is None:
            raise UnfitError("it does not run on shapes alone")
        self._stops = long.answer is None
        self._loops = not self._stops and len(long.calls) != len(self._clip.calls)
        _refuse_picked(self._clip, long)
        self._cuts, self._head = _head(self._clip, long)
        short, grown = self._sizes(self.frames), self._sizes(self.frames + LONGER)
        self._dims = [_grown(a, b) for a, b in zip(short, grown)]
        self._lengths = [size[dim] for size, dim in zip(short, self._dims)]
        self.stride, self._moves = self._strides()
        if not self._cuts and self._moves != [1]:
            raise UnfitError("it answers for frames in between")
        self.late = (self.frames if self._cuts or self._lengths == [1] else self.stride) - 1

    @property
    def bytes_per_frame(self) -> float:
        """Of the tensors that the hungriest call takes and makes."""
        sizes = (sum(map(math.prod, call.shapes)) + _elements(call.result) for call in self._clip.calls)
        return 4.0 * max(sizes) / self.frames

    def answers(self, video: Tensor, at: Sequence[int]) -> list[Tensor]:
        """Its answers for what begins with frames ``at`` * stride of a video (N, C, H, W)."""
        try:
            with torch.no_grad():
                self._check_head(video[: self.frames])
                return self.rolled(video, at)
        except UnfitError:
            raise
        except Exception as e:  # whatever the module raises, then it is no reference
            raise UnfitError(f"it does not take {len(video)} frames: {type(e).__name__}") from e

    def rolled(self, video: Tensor, at: Sequence[int]) -> list[Tensor]:
        """``answers`` with gradients, where they are wanted, and without a check of the head."""
        features = self._features(video)
        if not self._cuts:
            return [features[0].narrow(self._dims[0], q, 1) for q in at]
        return [self._replayed(self._windows(features, q)) for q in at]

    def _check_head(self, clip: Tensor) -> None:
        """Raise UnfitError unless the head on the features of a clip answers as the module does."""
        if not self._cuts:
            return
        own, wanted = self._replayed(self._windows(self._features(clip), 0)), self.module(_clip_of(clip))
        if not torch.allclose(own, wanted, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise UnfitError("its head cannot be told from the rest")

    def _trace(self, frames: int) -> Trace:
        if frames not in self._traces:
            shape = (*self.shape[:2], frames, *self.shape[3:])
            self._traces[frames] = _traced(self._shapes, shape)
        return self._traces[frames]

    def _calls(self, frames: int) -> list[tuple[int, int]]:
        """The cuts as calls of a run on so many frames."""
        clip = self._clip
        if not self._loops:
            return list(self._cuts)
        trace = self._trace(frames)
        shift = len(trace.calls) - len(clip.calls)
        cuts = [(call + shift, argument) for call, argument in self._cuts]
        for (call, _), (of_clip, _) in zip(cuts, self._cuts):
            if call >= len(trace.calls) or trace.calls[call].name != clip.calls[of_clip].name:
                raise UnfitError("it calls other functions on a longer video")
        return cuts

    def _sizes(self, frames: int) -> list[tuple[int, ...]]:
        """Shapes of what grows with the video, where it is cut."""
        trace, at = self._trace(frames), self._calls(frames)
        if (trace.answer is None and not self._stops) or any(call >= len(trace.calls) for call, _ in at):
            raise UnfitError(f"it does not take {frames} frames")
        return [trace.calls[call].shapes[i] for call, i in at] if at else [trace.answer or ()]

    def _strides(self) -> tuple[int, list[int]]:
        """(frames by which a clip may move, positions by which each cut's window then moves)."""
        for stride in range(1, MOST_STRIDE + 1):
            lengths = [self._sized(self.frames + j) for j in range(2 * stride + 1)]
            moves = {tuple(b - a for a, b in zip(x, y)) for x, y in zip(lengths, lengths[stride:])}
            if len(moves) == 1 and min(shifts := next(iter(moves))) > 0:
                return stride, list(shifts)
        raise UnfitError("its features do not advance in even strides")

    def _sized(self, frames: int) -> list[int]:
        """Lengths of what is cut; 0 where it has fewer dimensions than on a clip."""
        return [size[dim] if dim < len(size) else 0 for size, dim in zip(self._sizes(frames), self._dims)]

    def _features(self, video: Tensor) -> list[Tensor]:
        """What is cut, of a video; the answer, if that grows with the video."""
        wanted, clip = self._calls(len(video)), _clip_of(video)
        if not wanted:
            return [self.module(clip)]
        with contextlib.suppress(_Taken), Take(wanted) as take:
            self.module(clip)
        return [take.taken[w] for w in wanted]

    def _windows(self, features: Sequence[Tensor], q: int) -> dict[tuple[int, int], Tensor]:
        parts = zip(self._cuts, features, self._dims, self._moves, self._lengths)
        return {cut: x.narrow(dim, q * by, length).clone() for cut, x, dim, by, length in parts}

    def _replayed(self, given: Mapping[tuple[int, int], Tensor]) -> Tensor:
        nothing = torch.zeros(()).expand(self.shape)
        with Replay(self._clip.calls, self._head, given):
            answer = self.module(nothing)
        assert isinstance(answer, Tensor)
        return answer


class Windows:
    """A module that does not see the ends of its clips, asked about the clips themselves. See Untouched."""

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        self._module, self._frames = module, shape[2]
        self.stride, self.late = 1, shape[2] - 1
        self.bytes_per_frame = 4.0 * math.prod(shape) / shape[2]

    def answers(self, video: Tensor, at: Sequence[int]) -> list[Tensor]:
        """Its answers to the clips that begin with frames ``at``."""
        with torch.no_grad():
            return [self._module(_clip_of(video[q : q + self._frames])) for q in at]


class Since:
    """A module asked about everything since the video began, as a stream remembers it that never forgets.

    Raises UnfitError if it does not take videos longer than its clips, or answers them in another shape.
    """

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        self._module, self._frames = module, shape[2]
        self.stride, self.late = 1, shape[2] - 1
        self.bytes_per_frame = _most_bytes(_traced(_without_numbers(module), shape)) / shape[2]
        lengths = (shape[2], shape[2] + 3)
        clip, longer = (self._answer(torch.zeros((*shape[:2], n, *shape[3:]))) for n in lengths)
        if clip.shape != longer.shape:
            raise UnfitError("it answers longer videos in another shape")

    def answers(self, video: Tensor, at: Sequence[int]) -> list[Tensor]:
        """Its answers to the frames from the first to the last of the clips that begin with frames ``at``."""
        return [self._answer(_clip_of(video[: q + self._frames])) for q in at]

    def _answer(self, clip: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                answer = self._module(clip)
        except Exception as e:  # whatever the module raises, then it is no reference
            raise UnfitError(f"it does not take {clip.shape[2]} frames: {type(e).__name__}") from e
        assert isinstance(answer, Tensor)
        return answer


def _clip_of(video: Tensor) -> Tensor:
    return video.transpose(0, 1)[None]


def _most_bytes(trace: Trace) -> float:
    """Of the tensors that the hungriest call takes and makes."""
    return 4.0 * max(sum(map(math.prod, call.shapes)) + _elements(call.result) for call in trace.calls)


def _elements(value: Any) -> int:
    return sum(t.numel() for t in _tensors(value))


def _without_numbers(module: nn.Module) -> nn.Module:
    """The same module on torch's meta device, which computes shapes only."""
    try:
        return copy.deepcopy(module).to("meta")
    except Exception as e:  # a module that cannot be copied
        raise UnfitError("it does not run on shapes alone") from e


def _traced(module: nn.Module, shape: Sequence[int]) -> Trace:
    """The calls of a run on a video of this shape. module: one without numbers."""
    with torch.device("meta"), torch.no_grad(), hush():
        video = torch.zeros(tuple(shape))
        setattr(video, _MADE_BY, INPUT)
        try:
            with Record() as record:
                answer = module(video)
        except Exception:  # whatever it raises, it does not take so many frames
            return Trace(tuple(record.calls), None, UNKNOWN)
    if not isinstance(answer, Tensor):
        raise UnfitError("it does not answer with one tensor")
    return Trace(tuple(record.calls), tuple(answer.shape), getattr(answer, _MADE_BY, UNKNOWN))


def _grown(a: Sequence[int], b: Sequence[int]) -> int:
    """The dimension in which two shapes differ."""
    dims = [d for d, (x, y) in enumerate(zip(a, b)) if x != y]
    if len(dims) != 1 or len(a) != len(b):
        raise UnfitError("more than one dimension grows with the video")
    return dims[0]


def _refuse_picked(clip: Trace, long: Trace) -> None:
    """Raise UnfitError if the places of frames that are picked are made from the length of the video."""
    for one, other in zip(clip.calls, long.calls):
        if one.name != other.name:
            return
        if one.name in PICKS and len(one.shapes) > 1 and one.shapes[1:] != other.shapes[1:]:
            raise UnfitError("it picks frames by the length of the video")


def _head(clip: Trace, long: Trace) -> tuple[tuple[tuple[int, int], ...], frozenset[int]]:
    """((call, argument) of what grows with the video, the calls from there to the answer), in the clip's run.

    Nothing is cut where the answer itself grows.
    """
    if long.answer is not None and long.answer != clip.answer:
        return (), frozenset()
    stop = len(clip.calls)
    if long.answer is None:
        stop = len(long.calls) - 1
        names = [[call.name for call in trace.calls[: stop + 1]] for trace in (clip, long)]
        if stop < 0 or names[0] != names[1] or names[0][stop] not in FIXED:
            raise UnfitError("it does not take a longer video")
    shift = len(long.calls) - len(clip.calls) if long.answer is not None else 0
    cuts: list[tuple[int, int]] = []
    head: set[int] = set()
    ahead = [clip.end]
    while ahead:
        number = ahead.pop()
        if number in head:
            continue
        if number < 0:
            raise UnfitError("its head cannot be told from the rest")
        head.add(number)
        grown = _grown_arguments(clip, long, number, shift) if number <= stop else []
        for i, maker in enumerate(clip.calls[number].makers):
            if i in grown:
                cuts.append(_before_views(clip, long, (number, i), shift, head))
            elif maker != UNKNOWN:
                ahead.append(maker)
    if any(_sees_ends(clip.calls[number]) for number in head):
        raise UnfitError("its head looks around in time")
    return tuple(sorted(cuts)), frozenset(head)


def _grown_arguments(clip: Trace, long: Trace, number: int, shift: int) -> list[int]:
    """The tensor arguments of a call that have another shape on a longer video."""
    at = number + shift
    if not 0 <= at < len(long.calls):
        raise UnfitError("it calls other functions on a longer video")
    one, other = clip.calls[number], long.calls[at]
    if (one.name, len(one.shapes)) != (other.name, len(other.shapes)):
        raise UnfitError("it calls other functions on a longer video")
    return [i for i, (a, b) in enumerate(zip(one.shapes, other.shapes)) if a != b]


def _before_views(
    clip: Trace, long: Trace, cut: tuple[int, int], shift: int, head: set[int]
) -> tuple[int, int]:
    maker = clip.calls[cut[0]].makers[cut[1]]
    while maker >= 0 and clip.calls[maker].name in VIEWS and 0 in _grown_arguments(clip, long, maker, shift):
        head.add(maker)
        cut, maker = (maker, 0), clip.calls[maker].makers[0]
    return cut


def _sees_ends(call: Call) -> bool:
    """Whether a call might look beyond the ends of a clip."""
    if call.name.startswith("conv") and len(call.shapes) > 1 and math.prod(call.shapes[1][2:]) > 1:
        return True
    pools = "pool" in call.name and "adaptive" not in call.name
    return pools or any(word in call.name for word in AROUND)
