"""`trials masks export RUN`: a run's masks, or the network that they pruned, for other code."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from common import datasets, models
from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.models.initialisation import initialise
from common.pruning import ablations, load_masks, save_masks, save_network
from common.results.run_folder import MASKS
from common.runs import registry


def export(folder: Path, form: str, to: Path | None = None) -> Path:
    """Write what `folder`'s run has kept in the form `safetensors` (masks alone), `torch_prune` or
    `state_dict` (`save_network`: before training); returns the file, RUN_ID.safetensors by default.

    Raises ConfigurationError for a run without masks, or of whose network only the masks are known.
    """
    if not (folder / MASKS).is_file():
        raise ConfigurationError(f"{folder} has no {MASKS}: it is of a version that kept none")
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    masks, path = load_masks(folder / MASKS), to or Path(f"{told['run_id']}.safetensors")
    about = {"method": told["method"], "run_id": told["run_id"]}
    if form == "safetensors":
        save_masks(masks, path, about)
    else:
        save_network(_initial(told), masks, path, form, about)
    return path


def _initial(told: dict) -> nn.Module:
    """The network of a run.json as its masks met it."""
    given, hyper = told["parameters"], told["hyperparameters"]
    if told["method"] in registry.TRIALS or given["pretrain_epochs"]:
        raise ConfigurationError(
            f"{told['run_id']}: its weights were trained before pruning and are not kept; "
            "--as safetensors gives its masks"
        )
    spec = datasets.DATASETS[given["dataset"]]
    network = models.build(given["model"], spec.shape, spec.classes)
    streams = ["initial weights"]
    streams += ["redrawn weights"] if "weights" in ablations.parse(given["ablation"]) else []
    for name in streams:
        stream = generator(given["seed"], name)
        initialise(network, hyper["init"], hyper["batchnorm"], stream)
    return network
