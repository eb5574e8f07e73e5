"""``saddlescope analyze`` and what else the command line offers of this package.

Above 300 lines: the command line is read off the signatures, so every flag is spelled out, and there is nothing else here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the tables analysis and slices: --set rtol=1e-4."),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Checkpoints at a time; default: one per core.")]
DataRoot = Annotated[str | None, typer.Option(help="Folder to look for the data in first.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="file.py:factory, package.module:factory, torchvision:resnet18, timm:resnet10t, hf (what the config.json of "
        "a folder of Hugging Face says), exported.pt2, or a model of ours (resnet32-cifar)."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="file.py:function, package.module:function, .npz/.pt/.csv/.parquet file, folder of class folders or of "
        "datasets, or a set of ours."
    ),
]
Key = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PLACE[=PREFIX]",
        help="Where the state dict lies in the file, such as ema or outer/inner; repeat to join several, also of a file beside "
        "it: --key feat_model --key head.pth:classifier=fc.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust-checkpoint", help="Unpickle objects, and run what a side-car or stored result names.")
]
ExtraKeys = Annotated[
    list[str] | None,
    typer.Option("--allow-extra-keys", metavar="PATTERN", help="Keys of the file that the model does without; repeat."),
]
Logits = Annotated[
    str | None,
    typer.Option(metavar="PART", help="Part of the model's output that the logits are: 1, logits. Default: the one that fits."),
]
Normalise = Annotated[
    str | None,
    typer.Option(help="Of a folder of images, as in training: none (pixels in [0, 1]; the default), imagenet, half (0.5)."),
]
Mean = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Of the channels of a folder of images: 0.49,0.48,0.45.")]
Std = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Likewise, with --mean.")]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Images of a folder: shorter side scaled to it, centre cut out. Default: as they are.")
]
Labels = Annotated[str | None, typer.Option(metavar="PART", help="Part of a batch that the class labels are: 2, class.")]
Classes = Annotated[int | None, typer.Option(min=2, help="If the labels do not show every class.")]
JsonArguments = typer.Option(metavar="JSON", help='Keyword arguments, such as {"depth": 32}.')


def register(app: typer.Typer) -> None:
    """Adds this package's commands to the command line."""
    app.command()(analyze)
    app.command("slice")(slice_)
    app.command()(verify)
    app.command()(bench)
    app.command("augmentation-control")(augmentation_control)


def analyze(
    targets: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Checkpoint files, globs, a run folder, or a whole study.")
    ],
    model: Model = None,
    model_args: Annotated[str, JsonArguments] = "{}",
    data: Data = None,
    data_args: Annotated[str, JsonArguments] = "{}",
    normalise: Normalise = None,
    mean: Mean = None,
    std: Std = None,
    image_size: ImageSize = None,
    loss: Annotated[str | None, typer.Option(help="file.py:loss, called as loss(model, batch).")] = None,
    key: Key = None,
    allow_extra_keys: ExtraKeys = None,
    trust_checkpoint: Trust = False,
    num_classes: Classes = None,
    logits: Logits = None,
    labels: Labels = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="head-tail, many-medium-few, per-class, all, column:NAME (what is told of each sample beside its class; "
            "column:length:16,64 cuts numbers), or a JSON file: group -> classes."
        ),
    ] = None,
    eta: Annotated[int | None, typer.Option(min=1, help="Classes with fewer training samples are tail.")] = None,
    group: Annotated[list[str] | None, typer.Option(metavar="NAME=CLASSES", help="One group: --group tail=7,8,9.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Lanczos step limit of each start.")] = None,
    starts: Annotated[int | None, typer.Option(min=1, help="Random starts: probes of the density.")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Eigenpairs at each end.")] = None,
    params: Annotated[str | None, typer.Option(metavar="GLOB", help="Hessian over matching parameters only.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Every part of the model by itself.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Dense float64 Hessian, whole spectrum; for small models.")] = False,
    engine: Annotated[str | None, typer.Option(help="saddlescope, or pyhessian for its estimates as published.")] = None,
    products: Annotated[
        str | None,
        typer.Option(
            help="exact; differences (of the gradient; their error is measured); auto, the default: differences where an "
            "operation has no second derivative."
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    mesh: Annotated[
        str | None,
        typer.Option(
            metavar="SAMPLESxVECTORS",
            help="Under torchrun, 2x4: samples shared over all 8 processes, each vector spread over 4.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the random starts.")] = None,
    memory: Annotated[str | None, typer.Option(help="Budget for kept graphs: 2GB, 500MB.")] = None,
    subsample: Annotated[int | None, typer.Option(min=2, help="Largest number of samples a group; error measured.")] = None,
    goal: Annotated[
        str | None,
        typer.Option(
            help="spectrum; ends: lambda_min and lambda_max alone, fewer products; verdict: stop once decided; "
            "critical-step: the learning rate from which a step hurts a group, by forward passes."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="The verdict alone: at most 30 steps, 256 samples a group, no rates. Says what it gave up."
        ),
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Every n-th of the checkpoints, the last one always.")] = 1,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="This process's share of the checkpoints: 0/4.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: curvature/ beside the checkpoint.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Draw the results into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON instead of tables.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print time and memory needed, and stop.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure even if a current result is stored.")] = False,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    jobs: Jobs = None,
) -> None:
    """Measure the curvature of class groups at checkpoints, and say with error bounds whether they sit at saddles.

    Checkpoints that saddlescope trained know their model and data. For any other file name them:

    saddlescope analyze ckpt.pt --model nets.py:resnet32 --data data.py:train_set --groups head-tail --eta 500

    A checkpoint has one result for each scheme of groups; other settings replace it, and --out keeps both.
    """
    from .checkpoints.checkpoint_flags import given_from_flags
    from .records.setting_flags import settings_from_flags
    from .studies.analyze_command import Request, analyze_targets

    flags = {
        "eta": eta,
        "goal": goal,
        "steps": steps,
        "starts": starts,
        "k": k,
        "params": params,
        "engine": "exact" if exact else engine,
        "products": products,
        "dtype": dtype,
        "device": device,
        "mesh": mesh,
        "seed": seed,
        "subsample": subsample,
    }
    settings = settings_from_flags(
        flags, groups=groups, group=group or [], memory=memory, quick=quick, overrides=overrides or []
    )
    request = Request(
        settings=settings,
        given=given_from_flags(
            model=model,
            model_args=model_args,
            data=data,
            data_args=data_args,
            pixels={"normalise": normalise, "mean": mean, "std": std, "size": image_size},
            loss=loss,
            key=",".join(key) if key else None,
            trust=trust_checkpoint,
            extra_keys=tuple(allow_extra_keys or ()),
            num_classes=num_classes,
            logits=logits,
            labels=labels,
            column=settings.column,
            data_root=data_root,
        ),
        every=every,
        shard=shard,
        out=out,
        figures=figures,
        as_json=as_json,
        dry_run=dry_run,
        again=again,
        quick=quick,
        layers=layers,
        jobs=jobs,
    )
    analyze_targets(targets, request)


def slice_(
    target: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run folder or a checkpoint.")],
    name: Annotated[str, typer.Argument(help="tail-min, tail-max, tail-plane, random, random-plane or path-plane.")],
    model: Model = None,
    model_args: Annotated[str, JsonArguments] = "{}",
    data: Data = None,
    data_args: Annotated[str, JsonArguments] = "{}",
    normalise: Normalise = None,
    mean: Mean = None,
    std: Std = None,
    image_size: ImageSize = None,
    loss: Annotated[str | None, typer.Option(help="file.py:loss, called as loss(model, batch).")] = None,
    key: Key = None,
    allow_extra_keys: ExtraKeys = None,
    trust_checkpoint: Trust = False,
    num_classes: Classes = None,
    logits: Logits = None,
    labels: Labels = None,
    eta: Annotated[int | None, typer.Option(min=1, help="Classes with fewer training samples are tail.")] = None,
    convexity: Annotated[
        bool, typer.Option("--convexity", help="On a plane: λ_min and λ_max of each group at every point, one spectrum each.")
    ] = False,
    figures: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw the slice into this folder.")] = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
) -> None:
    """Group losses on a line or plane through a checkpoint; measures its curvature first where that is missing."""
    from .checkpoints.checkpoint_flags import given_from_flags
    from .studies.slice_command import slice_target

    given = given_from_flags(
        model=model,
        model_args=model_args,
        data=data,
        data_args=data_args,
        pixels={"normalise": normalise, "mean": mean, "std": std, "size": image_size},
        loss=loss,
        key=",".join(key) if key else None,
        trust=trust_checkpoint,
        extra_keys=tuple(allow_extra_keys or ()),
        num_classes=num_classes,
        logits=logits,
        labels=labels,
        data_root=data_root,
    )
    every = [*(overrides or []), *([f"eta={eta}"] if eta else [])]
    slice_target(target, name, every, given, convexity=convexity, figures=figures)


def verify(
    result: Annotated[Path, typer.Argument(help="A stored result: curvature/checkpoint.head-tail.json.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Where the weights are, if not beside the result.")] = None,
    model: Model = None,
    model_args: Annotated[str, JsonArguments] = "{}",
    data: Data = None,
    data_args: Annotated[str, JsonArguments] = "{}",
    loss: Annotated[str | None, typer.Option(help="file.py:loss, called as loss(model, batch).")] = None,
    allow_extra_keys: ExtraKeys = None,
    trust_checkpoint: Trust = False,
    data_root: DataRoot = None,
) -> None:
    """Recompute the proofs of negative curvature of RESULT from its checkpoint and vectors; exit 1 if one no longer holds.

    Code of yours that was named when RESULT was measured is named again: --model nets.py:net; its arguments are in RESULT.
    """
    from .checkpoints.checkpoint_flags import given_from_flags
    from .studies.analyze_command import verify_result

    given = given_from_flags(
        model=model,
        model_args=model_args,
        data=data,
        data_args=data_args,
        loss=loss,
        trust=trust_checkpoint,
        extra_keys=tuple(allow_extra_keys or ()),
        data_root=data_root,
    )
    verify_result(result, checkpoint, given)


def augmentation_control(
    out: Annotated[Path, typer.Argument(help="Folder for the numbers, the figure and the page.")],
    data: Annotated[str, typer.Option(help="Images of the softmax regression: a set of ours, a file or a factory.")] = "digits",
    data_args: Annotated[str, JsonArguments] = "{}",
    data_root: DataRoot = None,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A trained network with its side-car; repeat.")] = None,
    classes: Annotated[
        list[int] | None, typer.Option("--class", min=0, help="Of the checkpoints, this class alone; repeat. Default: all.")
    ] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="Mirror images; default: colour images only.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Lanczos steps of each class.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of start vectors and draws.")] = 0,
    trust_checkpoint: Trust = False,
) -> None:
    """Show what augmentation redrawn at every Hessian-vector product does to the spectra of classes, where no saddle can be.

    saddlescope augmentation-control OUT --data cifar10 --data-root DATA --checkpoint runs/STUDY/RUN/checkpoint.pt
    """
    from .augmentation.control_command import Wanted, run_control

    wanted = Wanted(
        data, data_args, data_root, tuple(checkpoint or ()), mirror, steps, seed, trust_checkpoint, tuple(classes or ())
    )
    for path in run_control(out, wanted):
        typer.echo(path)


def bench(
    out: Annotated[Path, typer.Argument(help="Folder of the table (bench.md, bench.json) and of the networks trained for it.")],
    cases: Annotated[
        list[str] | None,
        typer.Option(
            "--case",
            metavar="NAME",
            help="resnet18-16, resnet18-300, vit-tiny, bert, resnet8, resnet32, digits; with --inside: digits, resnet8, "
            "resnet32, transformer, prescribed; default: all.",
        ),
    ] = None,
    competitors: Annotated[
        list[str] | None,
        typer.Option("--competitor", metavar="NAME", help="ours, curvlinops, eigenthings, pyhessian; default: all."),
    ] = None,
    inside: Annotated[
        bool, typer.Option("--inside", help="One group's measurement alone, without what a command does around it.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is measured, in turn.")] = 3,
    longest: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="With --inside: longer runs are extrapolated, and marked."),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Measure time, memory and accuracy of whole commands beside scripts with the peers' libraries.

    Peers: curvlinops, hessian-eigenthings, PyHessian; they come with the extra named bench. See OUT/whole.md afterwards, with
    --inside OUT/bench.md.
    """
    from .bench.run import bench as run
    from .bench.whole import bench_whole

    chosen: dict[str, Any] = {"cases": cases or (), "competitors": competitors or (), "rounds": rounds, "data_root": data_root}

    def say(text: str) -> None:
        typer.echo(text, err=True)

    path = run(out, longest=longest, say=say, **chosen) if inside else bench_whole(out, say=say, **chosen)
    typer.echo(path.with_suffix(".md").read_text(encoding="utf-8"))
    typer.echo(path)
