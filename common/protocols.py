"""Protocols: named sets of hyperparameters, each as its paper has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from common.errors import unknown


@dataclass(frozen=True)
class Protocol:
    """How a network is initialised and trained. SGD with momentum and a step schedule.

    milestones: epochs after which the learning rate is multiplied by `gamma`; they belong to
    `epochs` and move in proportion when a run asks for another number.
    augment: `flip_crop` or none (natural images only, see datasets).
    exceptions: (model, dataset) -> what differs there; a model name ending in * is a prefix.
    """

    name: str
    source: str
    dataset: str
    model: str
    epochs: int
    batch_size: int
    learning_rate: float
    milestones: tuple[int, ...]
    gamma: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    init: str = "kaiming_normal"
    batchnorm: str = "ones"
    augment: str | None = "flip_crop"
    precision: str = "auto"
    sparsity: float = 0.9
    exceptions: Mapping[tuple[str, str], Mapping[str, object]] = field(default_factory=dict)

    def for_run(self, model: str, dataset: str, epochs: int | None) -> Protocol:
        """The hyperparameters of one run, its exceptions applied and its schedule scaled."""
        changes: dict = {"model": model, "dataset": dataset}
        for (models, data), exception in self.exceptions.items():
            named = model.startswith(models[:-1]) if models.endswith("*") else model == models
            if named and dataset.startswith(data.rstrip("*")):
                changes.update(exception)
        chosen = replace(self, **changes, exceptions={})
        if epochs is None or epochs == chosen.epochs:
            return chosen
        # Rounded up: even a single epoch starts at the full learning rate.
        scaled = tuple(-(-m * epochs // chosen.epochs) for m in chosen.milestones)
        return replace(chosen, epochs=epochs, milestones=scaled)

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of the 0-based `epoch`; from the number alone, so a resumed run and an
        uninterrupted one agree."""
        return self.learning_rate * self.gamma ** sum(epoch >= m for m in self.milestones)

    def rest(self, epoch: int) -> Protocol:
        """What is left of the training from the 0-based `epoch` on, at the same learning rates."""
        left = tuple(m - epoch for m in self.milestones)
        return replace(self, epochs=self.epochs - epoch, milestones=left)

    def at_last_rate(self) -> Protocol:
        """The learning rate of the last epoch throughout, as one fine-tunes."""
        last = self.learning_rate_at(max(self.epochs - 1, 0))
        return replace(self, learning_rate=last, milestones=())


_RESNET_ON_CIFAR = {"learning_rate": 0.01, "gamma": 0.2, "weight_decay": 5e-4}
_TANAKA_TINY = {"epochs": 100, "learning_rate": 0.01, "milestones": (30, 60, 80)}

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="quick",
            source="ours: a few seconds on a CPU, for trying things out",
            dataset="digits",
            model="small_vgg",
            epochs=8,
            batch_size=64,
            learning_rate=0.1,
            milestones=(5, 7),
            augment=None,
            # The network is too small for reduced precision to pay.
            precision="float32",
        ),
        Protocol(
            name="seed",
            source="the student reproduction this suite grew out of (COMP6258)",
            dataset="cifar10",
            model="vgg16",
            epochs=80,
            batch_size=128,
            learning_rate=0.1,
            milestones=(40, 60),
            batchnorm="uniform",
        ),
        Protocol(
            name="frankle2021",
            source="Frankle et al. 2021, arXiv 2009.08576",
            dataset="cifar10",
            model="vgg16",
            epochs=160,
            batch_size=128,
            learning_rate=0.1,
            milestones=(80, 120),
            batchnorm="uniform",
            exceptions={
                ("resnet18", "tiny_imagenet"): {
                    "epochs": 200,
                    "batch_size": 256,
                    "learning_rate": 0.2,
                    "milestones": (100, 150),
                }
            },
        ),
        Protocol(
            name="tanaka2020",
            source="Tanaka et al. 2020, arXiv 2006.05467",
            dataset="cifar10",
            model="vgg16",
            epochs=160,
            batch_size=128,
            learning_rate=0.1,
            milestones=(60, 120),
            nesterov=True,
            exceptions={
                ("resnet*", "cifar*"): _RESNET_ON_CIFAR,
                ("wide_resnet18", "cifar*"): _RESNET_ON_CIFAR,
                ("*", "tiny_imagenet"): _TANAKA_TINY,
            },
        ),
    )
}


def find(name: str) -> Protocol:
    """The protocol called `name`. Raises ConfigurationError with the choices."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
