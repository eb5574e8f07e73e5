"""Numbers that contradict what was taken for granted: a trained classifier does better than guessing on its training data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..hessian.evaluation import PerSample
from ..hessian.losses import BatchLoss, ClassificationLoss, cross_entropy
from ..records.results import Choice
from ..samples.samples import Samples


def doubts(known: PerSample, samples: Samples, loss: BatchLoss, choices: Sequence[Choice]) -> list[str]:
    """What is odd about loss and accuracy on all training data, in one sentence; empty where nothing is.

    Odd is a mean cross-entropy above ``ln C``, that of guessing, and a balanced accuracy (mean over classes, so that naming the
    largest class always is no success) within two standard errors of ``1 / C``.

    Args:
        known: of every sample.
        samples: the training data.
        loss: the loss; its size is judged where it is plain cross-entropy.
        choices: guessed ones are named as what may be wrong.
    """
    classes = np.flatnonzero(samples.class_counts)
    if len(classes) < 2:
        return []
    odd = []
    plain = isinstance(loss, ClassificationLoss) and loss.output_loss is cross_entropy
    if plain and known.losses is not None and (mean := float(known.losses.mean())) > (guessing := math.log(len(classes))):
        odd.append(f"the mean loss {mean:.3g} is above ln {len(classes)} = {guessing:.3g}, that of guessing")
    if known.right is not None:
        balanced = float(np.mean([known.right[samples.labels == c].mean() for c in classes]))
        chance = 1 / len(classes)
        error = math.sqrt(float((chance * (1 - chance) / samples.class_counts[classes]).sum())) / len(classes)
        if balanced <= chance + 2 * error:
            odd.append(f"the accuracy {100 * balanced:.3g} % (mean over classes) is near the {100 * chance:.3g} % of chance")
    if not odd:
        return []
    guesses = "; ".join(str(choice) for choice in choices if choice.guessed)
    return [
        f"On all training data {' and '.join(odd)}: hardly trained, or the data, their normalisation or the weights are not "
        f"those of training{f'. Taken without being told: {guesses}' if guesses else ''}."
    ]
