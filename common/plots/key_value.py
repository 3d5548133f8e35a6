"""A table of a run's facts, for people."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from pandas.io.formats.style import Styler


def key_value_table(rows: Mapping[str, object] | pd.DataFrame) -> Styler:
    """Name and value, a row each, nothing cut short; of a mapping or of a table's only row."""
    if isinstance(rows, pd.DataFrame):
        rows = rows.iloc[0].to_dict()
    table = pd.DataFrame({"": {name: _readable(value) for name, value in rows.items()}})
    left = [{"selector": "th, td", "props": "text-align: left; vertical-align: top"}]
    return table.style.set_table_styles(left).hide(axis="columns")


def _readable(value: object) -> str:
    if value is None or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
