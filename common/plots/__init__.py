"""Every figure of the suite: a DataFrame (or scores, or a mask) in, a matplotlib Figure out.

accuracy_by_ablation(summary), methods_together(summary)    the results
training_curves(epochs), cost(summary), results_table(summary)
layer_densities(layers), scores_by_layer_size(layers)       what the masks and scores did
score_histograms(scores), mask_image(mask)                  one run from inside
predicted_densities(layers, predicted), concentration(scores, masks)
ablation_effects(summary), beside_published(summary, reference)       tables of differences
facts(rows)           a table of names and values
settings(summary)     the parts of a summary that may share a figure
save(figure, folder, name)                                  PNG and SVG
"""

from __future__ import annotations

from common.plots.accuracy import accuracy_by_ablation, methods_together
from common.plots.comparison import ablation_effects, beside_published, markdown
from common.plots.diagnostics import concentration, predicted_densities
from common.plots.facts import facts
from common.plots.layers import layer_densities, scores_by_layer_size
from common.plots.masks import mask_image
from common.plots.runs import cost, results_table, training_curves
from common.plots.scores import score_histograms
from common.plots.style import save
from common.plots.tables import ablations, network_name, settings

__all__ = [
    "ablation_effects",
    "ablations",
    "accuracy_by_ablation",
    "beside_published",
    "concentration",
    "cost",
    "facts",
    "layer_densities",
    "markdown",
    "mask_image",
    "methods_together",
    "network_name",
    "predicted_densities",
    "results_table",
    "save",
    "score_histograms",
    "scores_by_layer_size",
    "settings",
    "training_curves",
]
