"""Findings: sentences whose verdicts and numbers follow from the published tables.

That something helps or hurts is said only where the 95 percent t-interval of the paired differences
excludes zero; otherwise no difference was found, and the interval says how large it may be. Fewer
than three seeds carry no finding. Counts, of layers or weights, are no differences and need no
interval.

A finding is a key, a text and the numbers in that text, a row each. Pages quote findings by their
keys; `common.sweep.publish` puts the texts there, and a test looks up every number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from common.errors import unknown
from common.findings.grids import BESIDE, QUESTIONS, order, questions, setting
from common.findings.studies import collapse, initialisation, inversion, tickets
from common.findings.wording import NONE, QUOTED, Finding, Published, Quotes
from common.statistics import LEVEL

__all__ = ["QUOTED", "Finding", "Published", "find", "quoted", "with_findings"]

TOPICS = (setting, questions, order, collapse, inversion, tickets, initialisation)
# What keys begin with, whether or not its tables are published.
KNOWN = (
    *("setting", "reading", "dense", *QUESTIONS, *BESIDE, "order"),
    *("collapse", "inversion", "tickets", "initialisation", "intervals"),
)


def find(published: Published) -> dict[str, Finding]:
    """All findings that the tables hold, by their keys; raises ValueError if two share one."""
    found = [finding for topic in TOPICS for finding in topic(published)]
    by_key = {finding.key: finding for finding in [*found, _counted(found)]}
    if len(by_key) != len(found) + 1:
        raise ValueError(f"two findings of one key: {[finding.key for finding in found]}")
    return by_key


def quoted(findings: dict[str, Finding]) -> pd.DataFrame:
    """Every number that the findings hold (`QUOTED`)."""
    return pd.concat([finding.quoted for finding in findings.values()], ignore_index=True)


def _counted(findings: Sequence[Finding]) -> Finding:
    """How many intervals there are, and how many would exclude zero by chance alone: each is as
    wide as if it were the only one."""
    rows = pd.concat([finding.quoted for finding in findings])
    decided = rows.loc[rows["quantity"] == "difference", "verdict"]
    quotes = Quotes("intervals", "findings")
    number = quotes.number("intervals", len(decided))
    excluding = quotes.number("intervals that exclude zero", (decided != NONE).sum())
    chance = quotes.number("of them expected by chance", (1 - LEVEL) * len(decided), ".1f")
    level = quotes.number("level", 100 * LEVEL, "g")
    return quotes.finding(
        f"Of the {number} intervals of differences behind these findings {excluding} exclude zero. "
        f"At {level} percent about {chance} would if nothing made a difference, since none is "
        "corrected for the others."
    )


_FINDING = re.compile(r"(<!-- finding: (\S+) -->).*?(<!-- /finding -->)", re.DOTALL)


def with_findings(page: str, findings: dict[str, Finding]) -> str:
    """A page with the findings in their places, `<!-- finding: key -->` to `<!-- /finding -->`.

    A place stays empty as long as its tables are not published. Raises ConfigurationError for a key
    that is none.
    """
    published = {key.partition("/")[0] for key in findings}

    def text(key: str) -> str:
        if key in findings:
            return findings[key].text
        topic = key.partition("/")[0]
        if topic in published or topic not in KNOWN:
            raise unknown("finding", key, findings)
        return ""

    return _FINDING.sub(lambda match: f"{match[1]}{text(match[2])}{match[3]}", page)
