"""Filter pruning as others report it (`figures/reference/filter_pruning_headlines.csv`)."""

from __future__ import annotations

import pandas as pd

from common.results.reference import FOLDER


def headlines() -> pd.DataFrame:
    """A row per published network: accuracies in percent and, besides the columns of the file,
    `removed`: the share of its parameters that went."""
    table = pd.read_csv(FOLDER / "filter_pruning_headlines.csv")
    percent = table["params_removed"].str.extract(r"^([\d.]+)%")[0].astype(float)
    return table.assign(removed=percent / 100)
