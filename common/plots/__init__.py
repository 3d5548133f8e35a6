"""Every figure of the suite: a DataFrame (or scores, or a mask) in, a matplotlib Figure out.

accuracy_by_ablation(summary), methods_together(summary)    the results
effects(summary), against_random(summary)                   what differs, with its interval
training_curves(epochs), cost(summary)
layer_densities(layers), scores_by_layer_size(layers)       what the masks and scores did
score_histograms(scores), mask_image(mask)                  one run from inside
predicted_densities(layers, predicted), concentration(scores, masks)
collapse_densities(layers, summary), critical_compression(critical, summary), seed_agreement(...)
unit_conservation(units, layers), layer_conservation(layers, slopes), layer_totals(layers)
batchnorm_modes(pruned)
procedures_by_layer(layers, outcomes, sparsity), inversion_rounds(table, layers)
procedure_training(training, sparsity), batchnorm_variances(signal)  the studies' tables
filter_norms(filters), penalty(sparse), filters_left(shapes), cost_beside_mask(cost)
filter_variants(summary), published_filters(published)      filter pruning
ticket_levels(levels), kept_weights(initial, trained, masks)          a lottery ticket
tickets_compared(levels, by), tickets_table(levels, by), retraining_compared(levels, published)
accuracies(summary), ablation_effects(summary), random_compared(summary)   tables of numbers
by_sparsity(numbers)                                        one of them as a page shows it
beside_published(summary, reference), published_table(both) ours beside published numbers
orders_compared(both), orders_table(orders)                 and the order of methods
facts(rows)           a table of names and values
settings(summary)     the parts of a summary that may share a figure
save(figure, folder, name)                                  PNG and SVG
"""

from __future__ import annotations

from common.plots.accuracy import accuracy_by_ablation, methods_together
from common.plots.collapse import collapse_densities, critical_compression, seed_agreement
from common.plots.comparison import (
    ablation_effects,
    accuracies,
    beside_published,
    by_sparsity,
    markdown,
    orders_compared,
    orders_table,
    published_table,
    random_compared,
)
from common.plots.conservation import (
    batchnorm_modes,
    layer_conservation,
    layer_totals,
    unit_conservation,
)
from common.plots.diagnostics import concentration, predicted_densities
from common.plots.effects import against_random, effects
from common.plots.facts import facts
from common.plots.inversion import inversion_rounds, procedure_training, procedures_by_layer
from common.plots.layers import layer_densities, scores_by_layer_size
from common.plots.masks import mask_image
from common.plots.runs import cost, training_curves
from common.plots.scores import score_histograms
from common.plots.signal import batchnorm_variances
from common.plots.structured import (
    cost_beside_mask,
    filter_norms,
    filter_variants,
    filters_left,
    penalty,
    published_filters,
)
from common.plots.style import save
from common.plots.tables import ablations, network_name, settings
from common.plots.tickets import (
    kept_weights,
    retraining_compared,
    ticket_levels,
    tickets_compared,
    tickets_table,
)

__all__ = [
    "ablation_effects",
    "ablations",
    "accuracies",
    "accuracy_by_ablation",
    "against_random",
    "batchnorm_modes",
    "batchnorm_variances",
    "beside_published",
    "by_sparsity",
    "collapse_densities",
    "concentration",
    "cost",
    "cost_beside_mask",
    "critical_compression",
    "effects",
    "facts",
    "filter_norms",
    "filter_variants",
    "filters_left",
    "inversion_rounds",
    "kept_weights",
    "layer_conservation",
    "layer_densities",
    "layer_totals",
    "markdown",
    "mask_image",
    "methods_together",
    "network_name",
    "orders_compared",
    "orders_table",
    "penalty",
    "predicted_densities",
    "procedure_training",
    "procedures_by_layer",
    "published_filters",
    "published_table",
    "random_compared",
    "retraining_compared",
    "save",
    "score_histograms",
    "scores_by_layer_size",
    "seed_agreement",
    "settings",
    "ticket_levels",
    "tickets_compared",
    "tickets_table",
    "training_curves",
    "unit_conservation",
]
