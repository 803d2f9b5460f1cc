"""A stream learns to answer as its clip model's sliding window does: distillation without labels.

A clip shows its model padding beyond both ends, in every layer. A stream has real frames there, which the
model was never trained on: where its receptive field is several times as long as its clips, a stream loses
accuracy though every sum in it is exact. Here the clip model runs over videos so long that no end is seen,
as its stream does (``edgepv.stream.rolled``), and learns to answer each clip in them as the original answers
that clip alone (Hinton et al. 2015). Nobody has to know what the videos show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepv.base.late import np
from edgepv.base.optional import need
from edgepv.base.tasks import task_of
from edgepv.data.calibration import to_and_fro
from edgepv.errors import UsageError
from edgepv.model.checkpoint import build
from edgepv.model.training import Trainer, cosine
from edgepv.quantize.finetune import TEMPERATURE, as_logits, epochs_option, soft_loss, taught_by, views
from edgepv.quantize.step import CheckpointStep, Training
from edgepv.types import Checkpoint

ANSWERS = 12
"""Clips that one long video answers. Its first and last frames serve as surroundings only: more answers use
them better, and need more memory."""
LONGEST_SCENE = 5
"""Clips' lengths after which a long video goes on with another scene, at most."""


@dataclass(frozen=True)
class Step(CheckpointStep):
    """learning_rate: at the start, falls to zero as a cosine."""

    name = "stream_tune"
    tools = ("torch",)
    order = 45
    watches = True
    learns = True
    done = ("streamtuned", "tuned to stream")

    epochs: int = epochs_option(
        0,
        "epochs in which the stream of a clip model learns to answer as its sliding window, from --clips and "
        "--footage, without labels (default: 0, off)",
        "stream_tune",
    )
    learning_rate: float = 3e-4
    seed: int = 0

    def requires(self, given: Checkpoint, aid: Training) -> None:
        """Raise UsageError for what is no clip classifier, and without video."""
        if given.rewrite is not None or given.spec.input.layout != "NCTHW":
            raise UsageError(f"{given.spec.name} steps already: --stream-tune is for a clip model")
        if not task_of(given.spec).classifies:
            raise UsageError(f"--stream-tune tunes classifiers; {given.spec.name} is for {given.spec.task}")
        if not aid.clips and not aid.footage:
            raise UsageError("--stream-tune needs video: --footage DIR, or --clips DIR with a train split")

    def work(self, given: Checkpoint, out: Path, aid: Training) -> Checkpoint:
        """Train ``given`` to answer on long video as the teacher answers each clip; its new checkpoint.

        Statistics of batch norm stay as they are: nobody knows here what they were gathered on. Raises
        UsageError for a model whose stream cannot be rolled, and if the loss stops being finite.
        """
        torch = need("torch", extra="compress")
        from edgepv.stream.rolled import Rolled

        torch.manual_seed(self.seed)
        model, original = build(given).requires_grad_(True), build(taught_by(aid))
        rolled, spec = Rolled(model, given.spec), given.spec
        shown, rng = [*aid.clips, *aid.footage], np.random.default_rng(self.seed)
        length = rolled.frames(ANSWERS)
        each = max(1, round(sum(map(len, shown)) / length))
        begins = rolled.begins(length)
        trainer = Trainer(model, weight_decay=1e-4, clip=1.0, cure="Lower the learning rate")
        for _ in aid.progress(range(self.epochs)):
            for video in long_videos(rng, shown, spec.frames, length, each):
                x = views(torch.from_numpy(video.transpose(1, 0, 2, 3)[None]), rng)[0].transpose(0, 1)
                clips = torch.stack([x[t : t + spec.frames].transpose(0, 1) for t in begins])
                with torch.no_grad():
                    wanted = as_logits(original(clips), spec)
                loss = soft_loss(as_logits(rolled.answers(x), spec), wanted)
                trainer.step(loss, self.learning_rate * cosine(trainer.steps, self.epochs * each))
        facts = {"videos": self.epochs * each, "frames": length, "temperature": TEMPERATURE}
        inputs = {"teacher": taught_by(aid).sha256}
        return self.saved(given, model.eval(), out, inputs=inputs, **facts)


def long_videos(
    rng: np.random.Generator, clips: Sequence[np.ndarray], frames: int, length: int, count: int
) -> Iterator[np.ndarray]:
    """``count`` videos (``length``, C, H, W), each of scenes at random out of the clips (T, C, H, W).

    A scene begins anywhere in its clip, lasts one to ``LONGEST_SCENE`` times ``frames`` frames, and goes to
    and fro where the clip is over before.
    """
    for _ in range(count):
        scenes: list[np.ndarray] = []
        while sum(map(len, scenes)) < length:
            clip = clips[int(rng.integers(len(clips)))]
            begin, lasts = int(rng.integers(len(clip))), int(rng.integers(frames, LONGEST_SCENE * frames + 1))
            scenes.append(to_and_fro(clip, begin + lasts)[begin:])
        yield np.concatenate(scenes)[:length]
