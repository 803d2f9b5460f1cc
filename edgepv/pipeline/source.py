"""The model that the user named, and the clips that it is calibrated, trained and judged on."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgepv.base.cache import imported, sources
from edgepv.base.files import digest
from edgepv.base.optional import present
from edgepv.base.tasks import TASKS, task_of
from edgepv.data.annotated import passed_over, survey_boxes
from edgepv.data.clips import SHOWN_LABELS, Clip, Survey, find_clips, survey, unheld_told, unlabelled_told
from edgepv.data.masked import survey_masks
from edgepv.data.split import apart, refuse_shared, split_clips, split_in_two
from edgepv.errors import UsageError
from edgepv.model.checkpoint import from_files
from edgepv.model.spec import at_size, read_spec, with_particles
from edgepv.pipeline.options import Options
from edgepv.types import Checkpoint, ModelSpec
from edgepv.zoo import checkpoint as zoo_checkpoint
from edgepv.zoo import detector

CALIBRATION_CLIPS = 24


@dataclass(frozen=True)
class Source:
    """A model to export: a checkpoint, or an ONNX file (then ``checkpoint`` is None)."""

    spec: ModelSpec
    checkpoint: Checkpoint | None
    onnx: Path | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the weights or of the ONNX file."""
        from edgepv.export.from_onnx import digest_of

        return self.checkpoint.sha256 if self.checkpoint else digest_of(self.onnx or Path())


@dataclass(frozen=True)
class Clips:
    """Clips by use; no group stands on two sides.

    footage, watched: video without labels, of which the one may be learnt from and the other counts the
    answers that change. origin: where they come from. notes: what of the user's folder was left out, and
    which labels have no held-out clips.
    """

    train: tuple[Clip, ...]
    calibration: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    origin: str
    fits: bool = True
    notes: tuple[str, ...] = ()
    footage: tuple[Clip, ...] = ()
    watched: tuple[Clip, ...] = ()

    @property
    def unlabelled(self) -> tuple[Clip, ...]:
        """What a step that needs no labels may learn from: footage, else what calibrates; never judged."""
        return self.footage or (self.calibration if self.fits else ())


def load(options: Options) -> Source:
    """The model the user named. Raises UsageError if it is not whole, or its parts do not fit."""
    source = _named(options)
    if options.size is None and options.particles is None:
        return source
    if source.checkpoint is None:
        raise UsageError("--size and --particles: an ONNX file is as it was exported")
    spec = source.spec
    if options.size is not None:
        if task_of(spec).shows or task_of(spec).segments:
            raise UsageError(f"--size {options.size} is for square frames; give {spec.name} its own --spec")
        spec = at_size(spec, options.size)
    if options.particles is not None:
        spec = with_particles(spec, options.particles)
    return Source(spec, replace(source.checkpoint, spec=spec))


NO_MODEL = (
    "not a model as edgepv takes it: a built-in name, file.py:builder, package.module:builder or file.onnx"
)
EXPORT_IT = "Give the model that it was made of: an .onnx file, or file.py:builder with --weights"
STATE = "Give the builder that makes the module, and these as its weights: file.py:builder --weights "
OTHERS = {
    ".tflite": EXPORT_IT,
    ".lite": EXPORT_IT,
    ".engine": EXPORT_IT,
    ".plan": EXPORT_IT,
    ".trt": EXPORT_IT,
    ".hef": EXPORT_IT,
    ".rknn": EXPORT_IT,
    ".ort": EXPORT_IT,
    ".mlmodel": EXPORT_IT,
    ".mlpackage": EXPORT_IT,
    ".xml": EXPORT_IT,
    ".bin": EXPORT_IT,
    ".param": EXPORT_IT,
    ".pb": "Convert it: python -m tf2onnx.convert --graphdef FILE --output model.onnx",
    ".h5": "Convert it: tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    ".hdf5": "Convert it: tf2onnx.convert.from_keras(model, output_path='model.onnx')",
    ".keras": "Convert it: model.export('model.onnx', format='onnx')",
    ".torchscript": "A compiled module cannot be taken apart. " + STATE + "FILE",
    ".pt2": "An exported program cannot be taken apart. " + STATE + "FILE",
    ".safetensors": STATE + "FILE",
    ".pt": STATE + "FILE --trust-pickle",
    ".pth": STATE + "FILE --trust-pickle",
    ".ckpt": STATE + "FILE --trust-pickle",
    ".pkl": STATE + "FILE --trust-pickle",
    ".zip": "Unpack it, and give the .onnx file inside",
    ".py": "Name the function in it that makes the module: FILE:build",
}
"""Files that are given as a model and are none that can be taken: by suffix, what to do."""


def _named(options: Options) -> Source:
    name = options.model
    refuse_other(name)
    if name.lower().endswith(".onnx"):
        if not Path(name).exists():
            raise UsageError(f"{name} does not exist. MODEL may be an ONNX file")
        if options.weights:
            raise UsageError(f"{name} holds its weights itself. Leave --weights out")
        return Source(_spec(options, name), None, Path(name))
    if ":" in name:
        if not options.weights:
            raise UsageError(f"{name} needs its weights: --weights FILE.safetensors")
        spec = _spec(options, name)
        return Source(
            spec,
            from_files(name, Path(options.weights), spec, trust_pickle=options.trust_pickle),
        )
    shipped = _built_in(name)
    if options.weights or options.spec:
        raise UsageError(
            f"'{name}' is a built-in model with weights of its own; --weights and --spec go with "
            "file.py:builder or package.module:builder"
        )
    return shipped


def _built_in(name: str) -> Source:
    """A model that ships. Raises UsageError for a name of none."""
    if files := detector(name):
        return Source(read_spec(files[1]), None, files[0])
    try:
        checkpoint = zoo_checkpoint(name)
    except UsageError:
        if Path(name).exists():
            raise UsageError(f"{name} is {NO_MODEL}") from None
        raise
    return Source(checkpoint.spec, checkpoint)


def refuse_other(name: str) -> None:
    """Raise UsageError for a file or a folder of another kind than a MODEL can be."""
    path = Path(name)
    cure = OTHERS.get(path.suffix.lower())
    if cure is None and (path / "saved_model.pb").exists():
        cure = "Convert it: python -m tf2onnx.convert --saved-model FILE --output model.onnx"
    if cure is not None:
        raise UsageError(f"{name} is {NO_MODEL}. {cure.replace('FILE', name)}")


def _spec(options: Options, name: str) -> ModelSpec:
    if not options.spec:
        raise UsageError(f"{name} needs its description: --spec FILE.toml (see docs/spec.md)")
    return read_spec(Path(options.spec))


def gather(options: Options, spec: ModelSpec) -> Clips:
    """Clips of every use, with those of ``--footage``; see ``_with_labels``.

    Where no clips fit the model, footage sets the INT8 ranges too, and what is watched is compared.
    Raises UsageError for a video on two sides.
    """
    clips = _with_labels(options, spec)
    if not options.footage:
        _refuse_rangeless(options, spec, clips)
        return clips
    folder = Path(options.footage)
    film = survey_boxes(folder).clips if task_of(spec).finds else find_clips(folder, ())
    learnt, watched = _two_sides([replace(c, label=None, truth=()) for c in film])
    if not clips.fits:
        held_out = tuple(watched) or clips.held_out
        clips = replace(
            clips, calibration=tuple(learnt), held_out=held_out, origin=options.footage, fits=True
        )
    refuse_shared((*learnt, *clips.calibration, *clips.train), (*clips.held_out, *watched))
    return replace(clips, footage=tuple(learnt), watched=tuple(watched))


def _refuse_rangeless(options: Options, spec: ModelSpec, clips: Clips) -> None:
    """Raise UsageError for INT8 without clips that could set its ranges."""
    if not clips.fits and (options.precision == "int8" or "-int8" in (options.variant or "")):
        raise UsageError(
            f"INT8 for {spec.name} needs clips like those its camera will see: --clips DIR, or --footage DIR "
            "without labels. Ranges set on other video would silently cost accuracy"
        )


def _two_sides(film: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """(film to learn from, film to watch): as the folders are called, else half of the groups each.

    One group alone is learnt from.
    """
    if any(c.split for c in film):
        watched = [c for c in film if c.split in ("evaluation", "validation", "test")]
        learnt = [c for c in film if c not in watched]
        apart(footage=learnt, watched=watched)
        return learnt, watched
    return split_in_two(film)[:2] if len({c.group for c in film}) > 1 else (film, [])


def _with_labels(options: Options, spec: ModelSpec) -> Clips:
    """Calibration, training and held-out clips: the user's, else those shipped with edgepv.

    A classifier whose labels the shipped clips do not carry gets them as plain video: enough to compare
    numbers, not to set INT8 ranges or to judge accuracy.
    """
    if options.clips:
        origin = options.clips
        there = _survey(Path(origin), spec)
        calibration, held_out = split_clips(list(there.clips), calibration=CALIBRATION_CLIPS)
        train = tuple(c for c in there.clips if c.split == "train" and c.label)
        refuse_shared((*calibration, *train), held_out)
        left_out = [f"left out of {origin}: {there.left_out}"] if there.left_out else []
        notes = (*left_out, *_unjudged(there.clips, held_out, spec))
        return Clips(train, tuple(calibration), tuple(held_out), origin, notes=notes)
    shipped = _shipped(spec)
    fits = spec.task in TASKS.own and not task_of(spec).finds and _judges(shipped, spec)
    if not fits:
        shipped = [replace(c, label=None, truth=()) for c in shipped]
    calibration, held_out = split_clips(shipped, calibration=CALIBRATION_CLIPS)
    origin = "shipped with edgepv" if fits else "shipped with edgepv, as plain video"
    return Clips((), tuple(calibration), tuple(held_out), origin, fits)


def _survey(folder: Path, spec: ModelSpec) -> Survey:
    """What a user's folder holds for the model's task."""
    task = task_of(spec)
    if task.finds:
        return survey_boxes(folder)
    return survey_masks(folder) if task.segments else survey(folder, spec.labels)


def _judges(shipped: Sequence[Clip], spec: ModelSpec) -> bool:
    """Whether what is true of the shipped clips is about the labels of the model."""
    from edgepv.zoo import SCENES

    if task_of(spec).segments:
        return spec.labels == SCENES
    return not task_of(spec).classifies or {c.label for c in shipped} <= set(spec.labels)


def _unjudged(clips: Sequence[Clip], held_out: Sequence[Clip], spec: ModelSpec) -> Iterator[str]:
    """What labels do not say of these clips: which have none, and which labels nobody can judge."""
    if task_of(spec).finds:
        if not any(c.truth for c in held_out):
            where = "no CSV, no COCO JSON and no labels/ beside images/"
            yield f"accuracy is not judged: {where} says what boxes are there"
        elif others := passed_over(held_out, spec.labels):
            shown = ", ".join(others[:SHOWN_LABELS]) + (" ..." if others[SHOWN_LABELS:] else "")
            yield f"not judged by the boxes of {shown}: {spec.name} has no such label"
        return
    if task_of(spec).segments:
        if not any(c.truth for c in held_out):
            yield "accuracy is not judged: no PNG in a folder masks/ beside images/ says what stands where"
        return
    if not spec.labels:
        return
    if bare := unlabelled_told(clips):
        yield f"{bare}: they set ranges, and neither train nor judge"
    if not any(c.label for c in held_out):
        shown = ", ".join(spec.labels[:SHOWN_LABELS])
        yield f"accuracy is not judged: no held-out clip lies in a folder called like a label ({shown})"
    if told := unheld_told(held_out, spec.labels):
        yield f"the accuracy gate is not applied: {told}. Add clips of each to an evaluation/ folder"


def _shipped(spec: ModelSpec) -> list[Clip]:
    """Clips that came with the package, for the model's task.

    Of fights; film for a restorer; for a tracker film to calibrate on, and clips with true points; for a
    segmenter rendered scenes with masks.
    """
    import edgepv.zoo

    here = Path(edgepv.zoo.__file__).parent
    if task_of(spec).classifies:
        return find_clips(here / "clips", edgepv.zoo.TASKS["fight"])
    if task_of(spec).segments:
        return list(survey_masks(here / "scenes").clips)
    film = find_clips(here / "film", ())
    if not task_of(spec).follows:
        return film
    return [c for c in film if c.split == "calibration"] + find_clips(here / "points", ())


def source_key(source: Source) -> dict[str, object]:
    """What a model given by a user depends on, for the cache."""
    if source.checkpoint is None:
        return {"onnx": source.sha256, "spec": digest(source.spec)}
    return checkpoint_key(source.checkpoint)


def checkpoint_key(checkpoint: Checkpoint) -> dict[str, object]:
    """What a module built from a checkpoint depends on, for the cache."""
    return {
        "weights": checkpoint.sha256,
        "builder": _builder_digest(checkpoint.builder),
        "spec": digest(checkpoint.spec),
        "rewrite": digest(checkpoint.rewrite) if checkpoint.rewrite else None,
    }


def _builder_digest(builder: str) -> str:
    """The builder's name and the text behind it, for an edited builder is another model.

    That is a user's file with what it imports from beside it, or the whole of a package.
    """
    place = builder.rpartition(":")[0]
    if place.endswith(".py"):
        return f"{builder}@{digest(imported(Path(place)))}"
    top = place.partition(".")[0]
    package = importlib.util.find_spec(top) if present(top) else None
    folders = (package.submodule_search_locations if package else None) or ()
    if not folders and package and package.origin:
        return f"{builder}@{digest(imported(Path(package.origin)))}"
    return f"{builder}@{digest([sources(Path(folder)) for folder in folders])}"


def all_labelled(clips: Sequence[Clip], labels: Sequence[str]) -> bool:
    """Whether every held-out clip has a label. Raises UsageError if only some have: a typing error."""
    bare = [c for c in clips if not c.label]
    if bare and len(bare) < len(clips):
        raise UsageError(
            f"{bare[0].path} has no label, other clips have. Put it into a folder named after its label "
            f"({', '.join(labels)}), or take it out"
        )
    return not bare
