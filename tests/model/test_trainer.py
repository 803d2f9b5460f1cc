"""What every training has in common: the step, what it refuses, and the weights that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from edgepv.errors import UsageError
from edgepv.model.training import Best, SavedRun, Trainer, cosine


def line(weight: float = 1.0, bias: float = 1.0) -> nn.Linear:
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, weight)
    nn.init.constant_(net.bias, bias)
    return net


def values(net: nn.Linear) -> list[float]:
    return [net.weight.item(), net.bias.item()]


def answer(net: nn.Module) -> Tensor:
    return net(torch.ones(1, 1)).sum()


def test_the_rate_falls_from_all_to_nothing_along_half_a_cosine() -> None:
    assert [cosine(step, 6) for step in (0, 2, 3, 4, 6)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_a_step_goes_as_far_as_the_rate_says_and_tells_the_loss() -> None:
    net = line()
    trainer = Trainer(net, weight_decay=0.0)
    assert trainer.step(answer(net), 0.1) == 2.0
    assert values(net) == pytest.approx([0.9, 0.9])  # the first step of Adam is one rate long
    trainer.step(answer(net), 0.0)
    assert values(net) == pytest.approx([0.9, 0.9])
    assert trainer.steps == 2


@pytest.mark.parametrize(("only_matrices", "bias"), [(True, 1.0), (False, 0.9)])
def test_biases_decay_only_where_all_weights_do(only_matrices: bool, bias: float) -> None:
    net = line()
    Trainer(net, weight_decay=1.0, only_matrices=only_matrices).step(0 * answer(net), 0.1)
    assert values(net) == pytest.approx([0.9, bias])


def test_frozen_weights_stay_and_do_not_decay() -> None:
    net = line()
    net.weight.requires_grad_(False)
    Trainer(net, weight_decay=1.0).step(0 * answer(net), 0.1)
    assert values(net) == pytest.approx([1.0, 0.9])


def test_gradients_are_shared_out_before_they_are_clipped() -> None:
    net = line()

    def share(model: nn.Module) -> None:
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, 30.0)

    Trainer(net, 0.0, clip=1.0, share=share).step(answer(net), 0.1)
    assert [p.grad.item() for p in net.parameters() if p.grad is not None] == pytest.approx([0.5**0.5] * 2)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (float("nan"), "training diverged in step 1 (the loss is not finite). Take less"),
        (float("inf"), "training diverged in step 1 (the loss is not finite). Take less"),
        (20.0, "training diverged in step 1 (a loss of 20). Take less"),
    ],
)
def test_a_lost_training_ends_with_the_weights_before_it(loss: float, says: str) -> None:
    net = line()
    trainer = Trainer(net, 0.0, cure="Take less", most=10.0)
    trainer.step(answer(net), 0.1)
    before = values(net)
    with pytest.raises(UsageError) as error:
        trainer.step(answer(net) * 0 + loss, 0.1)
    assert str(error.value) == says and values(net) == before


def test_the_first_of_the_best_epochs_is_kept() -> None:
    best, net = Best(), line()
    for epoch, loss in enumerate([0.5, 0.0, 0.0, 0.2]):
        nn.init.constant_(net.weight, epoch)
        best.offer(net, loss, epoch)
    assert (best.epoch, best.loss, net.weight.item()) == (1, 0.0, 3.0)
    best.restore(net)
    assert net.weight.item() == 1.0


def test_without_an_epoch_a_network_keeps_its_weights() -> None:
    net = line(7.0)
    Best().restore(net)
    assert net.weight.item() == 7.0


def test_a_training_goes_on_from_its_file_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, file = line(), tmp_path / "run.pt"
    trainer = Trainer(whole, 0.0)
    for step in range(4):
        trainer.step(answer(whole) ** 2, 0.1)
        if step == 1:
            SavedRun(file, net=whole, trainer=trainer).save([{"step": 2}])
    net = line(5.0)
    again = Trainer(net, 0.0)
    assert SavedRun(file, net=net, trainer=again).resume() == [{"step": 2}]
    assert again.steps == 2
    for _ in range(2):
        again.step(answer(net) ** 2, 0.1)
    assert values(net) == values(whole)


def test_the_best_epoch_is_kept_across_a_stop(tmp_path: Path) -> None:
    best, net = Best(), line(3.0)
    best.offer(net, 0.5, 7)
    SavedRun(tmp_path / "run.pt", best=best).save([])
    again = Best()
    SavedRun(tmp_path / "run.pt", best=again).resume()
    again.offer(line(4.0), 0.6, 8)
    again.restore(other := line())
    assert (again.epoch, again.loss, other.weight.item()) == (7, 0.5, 3.0)


def test_without_a_file_a_training_begins_anew_and_saves_nothing(tmp_path: Path) -> None:
    assert SavedRun(tmp_path / "none.pt", net=line()).resume() == []
    SavedRun(None, net=line()).save([{"step": 1}])
    assert SavedRun(None, net=line()).resume() == [] and not list(tmp_path.iterdir())


def test_the_file_of_another_training_is_refused(tmp_path: Path) -> None:
    SavedRun(tmp_path / "run.pt", net=line(2.0)).save([])
    net = line()
    with pytest.raises(UsageError, match="run.pt is not a training of this kind. Remove it"):
        SavedRun(tmp_path / "run.pt", net=net, trainer=Trainer(net, 0.0)).resume()
    assert values(net) == [1.0, 1.0]


def test_another_optimizer_goes_down_the_same_way() -> None:
    net = line()
    trainer = Trainer(net, 0.0, optimizer=lambda groups: torch.optim.SGD(groups, momentum=0.5))
    for _ in range(2):
        trainer.step(answer(net), 0.1)  # a gradient of 1 each: 0.1, then 0.1 and half of the step before
    assert values(net) == pytest.approx([0.75, 0.75])
