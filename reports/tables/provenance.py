"""How the study was made, in sentences and facts that a reader can check: method, versions, hashes, warnings."""

from __future__ import annotations

from collections.abc import Iterable

from ...analysis.records.results import CurvatureResult
from ...analysis.records.rounding import percent_words
from ...analysis.records.study import Study
from .accuracy import class_counts
from .findings import main_scheme
from .gather import cells, finals, grid, run_status, seeds
from .words import listed, number, optimizer_name, threshold


def results(study: Study, scheme: str) -> list[CurvatureResult]:
    """Final curvature results that exist."""
    return [result for _, result in finals(study, scheme) if result is not None]


def method(study: Study) -> list[str]:
    """The method in three sentences, with this study's own settings."""
    scheme = main_scheme(study)
    names = listed([optimizer_name(study, name) for name in study.optimizers])
    count = len(seeds(study))
    train = "train the same" if len(study.optimizers) > 1 else "trains one"
    found = results(study, scheme) if scheme else []
    if not found:
        return [f"{names} {train} model from {count} seed{'s' * (count != 1)}."]
    first = found[0].provenance
    tau, delta, stationary = (first.settings.get(name) for name in ("tau", "delta", "stationarity"))
    made = found[0].scheme
    groups = [
        f"{group} ({f'{len(members)} classes, ' if made.column is None else ''}{made.sizes[group]} samples)"
        for group, members in made.groups.items()
        if any(group in result.groups for result in found)
    ]
    parted = any(entry.sampling is not None for result in found for entry in result.groups.values())
    parts = ", of some a random part (see above)" if parted else ""
    shown = listed(groups) if len(groups) <= 6 else f"{len(groups)} groups"
    plural = "s" * (count != 1)
    held = f", with intervals that hold with probability {percent_words(1 - delta)} %" if isinstance(delta, float) else ""
    model = f"{first.model} ({first.parameters:,} parameters)"
    sentences = [
        f"Checkpoints of {model}, over {first.data}."
        if study.own
        else f"{names} {train} {model} on {first.data} from {count} seed{plural}.",
        f"For the training samples of each class group, {shown}{parts}, without augmentation and with batch-norm statistics "
        f"held, both ends of the spectrum of the Hessian of the mean {first.loss} loss are measured{held}.",
    ]
    relative = f"τ = {threshold(tau)} λ_max" if isinstance(tau, float) else "τ"
    limit = f"{100 * stationary:.3g} %" if isinstance(stationary, float) else "a tenth"
    sentences.append(
        f"A checkpoint is called a saddle of a group if a vector proves curvature below −τ ({relative}) beyond the "
        "measured noise, and the gradient is so small that this curvature outweighs it within "
        f"{limit} of the length of the weight vector."
    )
    return sentences


def facts(study: Study) -> list[tuple[str, str]]:
    """(name, value) of everything that a number depends on; several values where runs differ."""
    scheme = main_scheme(study)
    found = [result.provenance for result in results(study, scheme)] if scheme else []
    rows = [("Study", study.name), ("Seeds", ", ".join(str(seed) for seed in seeds(study)))]
    if counts := class_counts(study):
        rows.append(("Training samples per class", ", ".join(str(count) for count in counts)))
    fields = {
        "Data": "data",
        "SHA-256 of the analysed samples": "data_sha256",
        "SHA-256 of the long-tail index": "index_sha256",
        "Model": "model",
        "Parameters": "parameters",
        "Loss": "loss",
        "Engine": "engine",
        "Precision": "dtype",
        "Device": "device",
        "Threads": "threads",
        "saddlescope": "saddlescope",
        "Commit": "git_commit",
        "torch": "torch",
        "numpy": "numpy",
        "Python": "python",
        "Platform": "platform",
        "Processor": "processor",
    }
    for name, field in fields.items():
        values = _distinct(getattr(entry, field) for entry in found)
        if values:
            rows.append((name, values))
    if found and found[0].settings:
        rows.append(
            (
                "Analysis settings",
                ", ".join(f"{name} = {value}" for name, value in found[0].settings.items() if value is not None),
            )
        )
    return rows


def _distinct(values: Iterable[object]) -> str:
    return "; ".join(
        dict.fromkeys(f"{value:,}" if isinstance(value, int) else str(value) for value in values if value is not None)
    )


def gaps(study: Study) -> list[str]:
    """One sentence per missing run or missing analysis, and per result that is there and left out."""
    found = [
        f"{optimizer_name(study, name)}, seed {seed}: {run_status(run)}"
        for name, seed, run in grid(study)
        if run is None or not run.finished
    ]
    scheme = main_scheme(study)
    missing = (
        {(cell.optimizer, cell.seed): None for cell in cells(study, scheme) if cell.status == "not analysed"} if scheme else {}
    )
    return [
        *found,
        *(f"{optimizer_name(study, name)}, seed {seed}: trained, but not analysed under {scheme}" for name, seed in missing),
        *(f"{file}: left out: {reason}" for file, reason in study.left_out.items()),
    ]


def warnings(study: Study, schemes: Iterable[str]) -> list[str]:
    """What a careful reader should know about the measurements: noise, additivity, convergence, warnings of the analysis."""
    found: list[str] = []
    for scheme in schemes:
        checked = results(study, scheme)
        groups = [group for result in checked for group in result.groups.values()]
        if not groups:
            found.append(f"{scheme}: no group was measured; every one that was asked for was refused.")
            continue
        noise, symmetry = max(group.noise.repeat for group in groups), max(group.noise.symmetry for group in groups)
        found.append(
            f"{scheme}: two products of one vector differ by at most {number(noise, 2)}, the operator is symmetric to "
            f"{number(symmetry, 2)} (both relative)."
        )
        additive = [result.additivity for result in checked if result.additivity is not None]
        if additive:
            found.append(f"{scheme}: the group Hessians add up to the whole to {number(max(additive), 2)} (relative).")
        states = [{group.lambda_min.state, group.lambda_max.state} for group in groups]
        for state, words in (("bound", "an unconverged end"), ("not confirmed", "an end that is settled, not confirmed")):
            loose = sum(state in both for both in states)
            if loose:
                found.append(f"{scheme}: {loose} of {len(groups)} spectra have {words}; marked † in the tables.")
    texts: dict[str, int] = {}
    for scheme in schemes:
        for cell in cells(study, scheme):
            for text in cell.result.warnings if cell.result else ():
                texts[text] = texts.get(text, 0) + 1
    return found + [f"{text} ({count} group{'s' * (count != 1)})" for text, count in texts.items()]
