"""Measurements behind the study notebooks: what masks look like, without training to a result.

Each study is a module with a `measure` that writes tables into a folder, unit by unit, so that a
measurement that was stopped continues where it was, and small functions that read results off the
tables. The committed tables lie under figures/results/<study>/; a measurement never goes there.
Only `schedule_length` trains: the grid of its name is the measurement.
"""

from __future__ import annotations
