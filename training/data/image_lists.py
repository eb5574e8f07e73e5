"""Data sets that are published as lists of image files: ImageNet-LT, iNaturalist 2018, and anybody's own.

A line of a list is ``path label``. The list is looked for like every data set; the photos it names, in this order, in the
folder that holds the list, in the folders that data are looked for in, in the data set's usual subfolders of these, and in
``images`` inside each of them: the first one that has the list's first photo is taken for the whole list.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from .photos import Photos
from .sources import DataError, Source, find, search_roots


@dataclass(frozen=True)
class Lists:
    """What is known of a data set before its lists are read.

    Attributes:
        title: to show.
        train: name of the list of training images.
        test: name of the list that accuracy is measured on.
        subfolders: where lists and photos usually lie, in a data root.
        images: training and test images as published; None where nobody published any.
    """

    title: str
    train: str
    test: str
    subfolders: tuple[str, ...] = ()
    images: tuple[int, int] | None = None


#: Sizes of ImageNet-LT: its page at TensorFlow Datasets. Of iNaturalist 2018: the README of the competition. The test list of
#: ImageNet-LT is ILSVRC 2012's validation set; nothing is ever chosen by it (its own validation list is not read at all).
PUBLISHED = {
    "imagenet-lt": Lists(
        "ImageNet-LT",
        "ImageNet_LT_train.txt",
        "ImageNet_LT_test.txt",
        ("ImageNet_LT", "imagenet-lt", "imagenet", "ImageNet", "ILSVRC2012"),
        (115_846, 50_000),
    ),
    "inaturalist-2018": Lists(
        "iNaturalist 2018",
        "iNaturalist18_train.txt",
        "iNaturalist18_val.txt",
        ("iNaturalist18", "inaturalist-2018", "iNaturalist2018", "inat2018", "inaturalist"),
        (437_513, 24_426),
    ),
}
#: the general one, its lists named in the recipe
OWN = "image-list"


def image_lists(
    name: str, train_list: str | None, test_list: str | None, image_size: int | None, root: str | Path | None
) -> Source:
    """The photos of ``imagenet-lt``, ``inaturalist-2018`` or ``image-list``, none of them read yet.

    Args:
        name: one of these.
        train_list: list of training images, for ``image-list``; a path, or relative to where data are looked for.
        test_list: list of the images that accuracy is measured on, likewise.
        image_size: height and width of the inputs; default 224.
        root: folder to look in first.

    Raises:
        DataError: a list or a photo is missing, or a list does not hold together.
    """
    own = name == OWN
    if own != (train_list is not None) or own != (test_list is not None):
        raise DataError(
            f"[data] name = 'image-list' and train_list, test_list go together (name is {name!r}); give "
            f"{'both lists' if own else 'none of the lists'}"
        )
    size = 224 if image_size is None else image_size
    if size < 1:
        raise DataError(f"[data] image_size = {size}: give the height and width of the inputs in pixels, 1 or more")
    named = Lists(f"image list {Path(str(train_list)).stem}", str(train_list), str(test_list))
    lists = named if own else PUBLISHED[name]
    train, test = (_photos(lists, file, size, root) for file in (lists.train, lists.test))
    _check(train, test)
    published = lists.images or (len(train), len(test))
    return Source(
        title=lists.title + _other_than(published[0], len(train)),
        train=train,
        test=test,
        split=f"the {len(test):,} images of {Path(lists.test).name}"
        + (f" (published with {published[1]:,})" if len(test) != published[1] else ""),
        unchanged="as listed" if own or len(train) != published[0] else "as published",
    )


def _other_than(published: int, found: int) -> str:
    return "" if found == published else f", {found:,} {'of' if found < published else 'instead of'} {published:,} images"


def _photos(lists: Lists, file: str, size: int, root: str | Path | None) -> Photos:
    source = find(lists.title, [file], root, lists.subfolders)
    names, labels, lines = read_list(source)
    folder = _folder(source, names[0], lines[0], lists, root)
    _require_files(folder, names, lines, source)
    return Photos(folder, tuple(names), torch.tensor(labels), np.array(lines), source, size)


def read_list(path: Path) -> tuple[list[str], list[int], list[int]]:
    """Names, classes and line numbers (from 1) of a list; empty lines are passed over.

    Raises:
        DataError: not readable, empty, or a line that is not ``path label`` with a path inside the folder and a whole number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"image list {path} cannot be read: {error}") from None
    names, labels, lines = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.strip().rsplit(None, 1)
        if not parts:
            continue
        where = f"{path}, line {number}: {line.strip()!r:.120}"
        if len(parts) < 2:
            raise DataError(f"{where}: a line is a path and a label, such as 'train/a.jpg 0'")
        name, label = parts
        if not (label.isascii() and label.isdigit() and len(label) < 10):
            raise DataError(f"{where}: the label {label!r:.40} is no whole number from 0")
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise DataError(
                f"{where}: the path leads out of the folder of images; write it relative to that folder, without '..'"
            )
        names.append(name)
        labels.append(int(label))
        lines.append(number)
    if not names:
        raise DataError(f"image list {path} is empty; it needs lines such as 'train/a.jpg 0'")
    return names, labels, lines


def _folder(source: Path, first: str, line: int, lists: Lists, root: str | Path | None) -> Path:
    """The folder that the names of a list are relative to."""
    bases = [source.parent]
    for place in search_roots(root):
        bases += [place, *(place / sub for sub in lists.subfolders)]
    folders = list(dict.fromkeys(folder for base in bases for folder in (base, base / "images")))
    for folder in folders:
        if (folder / first).is_file():
            return folder
    looked = ", ".join(str(folder) for folder in folders if folder.is_dir())
    raise DataError(
        f"{source}, line {line}: image {first} was not found in any of {looked}; put the images beside the list or into "
        "images/ there, or say with --data-root where they are"
    )


def _require_files(folder: Path, names: list[str], lines: list[int], source: Path) -> None:
    """Every photo is there: better said before the first epoch than after it. Folders are listed, which is one look each."""
    there: dict[str, set[str]] = {}
    for name, line in zip(names, lines, strict=True):
        inner, _, file = name.rpartition("/")
        if inner not in there:
            try:
                there[inner] = set(os.listdir(folder / inner))
            except OSError:
                there[inner] = set()
        if file not in there[inner]:
            raise DataError(
                f"image {folder / name} cannot be read: no such file (line {line} of {source}); restore the file, or take the "
                "line out of the list"
            )


def _check(train: Photos, test: Photos) -> None:
    """Classes are 0 .. C - 1, each has a training image, and no image is in both lists.

    Raises:
        DataError: anything else; names list and line.
    """
    trained = set(train.targets.tolist())
    untrained = next(label for label in range(len(trained) + 1) if label not in trained)
    for photos in (train, test):
        for label, line in zip(photos.targets.tolist(), photos.lines.tolist(), strict=True):
            if label >= untrained:
                raise DataError(
                    f"{photos.source}, line {line}: label {label}, but class {untrained} has no training image in "
                    f"{train.source}; labels are 0 .. C - 1, and every class needs one"
                )
    if train.folder == test.folder:
        seen = set(train.names)
        for name, line in zip(test.names, test.lines.tolist(), strict=True):
            if name in seen:
                raise DataError(
                    f"{test.source}, line {line}: {name} is a training image as well ({train.source}); accuracy would be "
                    "measured on what was trained on"
                )
