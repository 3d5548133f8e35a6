"""Every figure of the suite: a DataFrame (or scores, or a mask) in, a matplotlib Figure out.

accuracy_by_ablation(summary), methods_together(summary)    the results
effects(summary), against_random(summary)                   what differs, with its interval
training_curves(epochs), cost(summary)
layer_densities(layers), scores_by_layer_size(layers)       what the masks and scores did
score_histograms(scores), mask_image(mask)                  one run from inside
predicted_densities(layers, predicted), concentration(scores, masks)
accuracies(summary), ablation_effects(summary), random_compared(summary)   tables of numbers
by_sparsity(numbers)                                        one of them as a page shows it
beside_published(summary, reference), published_table(both) ours beside published numbers
orders_compared(both), orders_table(orders)                 and the order of methods
key_value_table(rows)       a table of names and values
drawing(run)                draws in the run's colours, and never fails
outcome(run)                what it came to, beside dense and random networks
settings(summary)     the parts of a summary that may share a figure
save(figure, folder, name)                                  PNG and SVG
"""

from __future__ import annotations

from common.plots.accuracy import accuracy_by_ablation, methods_together
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
from common.plots.effects import against_random, effects
from common.plots.layers import layer_densities, scores_by_layer_size
from common.plots.one_run import concentration, mask_image, predicted_densities, score_histograms
from common.plots.outcome import drawing, outcome
from common.plots.runs import cost, training_curves
from common.plots.style import save
from common.plots.tables import ablations, key_value_table, network_name, settings
