"""A run's trainings: on its images, in its precision and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torchbearer.callbacks import Callback

from common.pruning import Masks
from common.runs.network import Network
from common.training import loop
from common.training.callbacks import History, Stage
from common.training.protocols import Protocol


@dataclass(frozen=True)
class Trainer:
    """Trains networks on the images of `network`, in batches of `batch_size`."""

    network: Network
    precision: str
    batch_size: int

    def train(
        self,
        model: nn.Module,
        masks: Masks,
        hyper: Protocol,
        epochs: int,
        *,
        folder: Path | None = None,
        progress: str | None = None,
        stage: Stage | None = None,
        more: Sequence[Callback] = (),
        train_data: loop.Batches | None = None,
    ) -> History:
        """Train the masked `model` for `epochs`; arguments as for `loop.train`.

        train_data: what to train on, if not the whole images from the first epoch on.
        """
        batches, test_data = self.network.loaders(self.batch_size)
        return loop.train(
            model,
            masks,
            batches if train_data is None else train_data,
            test_data,
            hyper,
            epochs,
            self.precision,
            folder=folder,
            progress=progress,
            stage=stage,
            more=more,
        )
