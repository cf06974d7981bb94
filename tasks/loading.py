"""From a dataset's name to the dataset: the order in which a name is looked up."""

from __future__ import annotations

import os
from pathlib import Path

from metasum.arguments import checked
from metasum.errors import DatasetError, MetaSumError, UsageError, unknown
from metasum.files import check_folder_name
from metasum.tasks.arrays import dataset_from_arrays, read_npz
from metasum.tasks.folders import are_torch_datasets, dataset_from_torch, folder_dataset
from metasum.tasks.registry import DATASETS, is_folder, known_datasets
from metasum.tasks.vision import VISION, vision_arrays
from metasum.types import Dataset


@checked
def load_dataset(name: str, *, root: Path, download: bool = False) -> Dataset:
    """The dataset called `name`: registered, else `<root>/<name>.npz`, else folders of images, else torchvision's.

    Folders are `<root>/<name>/train/CLASS` and `<root>/<name>/test/CLASS`; images in them are decoded batch by batch.

    Args:
        name: of the dataset.
        root: the data root.
        download: let torchvision fetch what is not there.

    Raises:
        UsageError: nobody knows the name; the nearest known one is in the message.
        DatasetError: it is known and not there, or damaged, or not what a dataset should be.
    """
    check_folder_name("a dataset called", name)
    if name == "union":
        raise UsageError("a dataset cannot be called 'union': that is what results call all datasets together.")
    if name in DATASETS:
        entry = DATASETS[name]
        try:
            arrays = entry.loader()
        except (MetaSumError, MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise DatasetError(f"the loader of dataset {name!r} ({entry.source}) failed: {error!r}.") from error
        if are_torch_datasets(arrays):
            return dataset_from_torch(name, arrays, source=entry.source)
        return dataset_from_arrays(name, arrays, source=entry.source)
    path = root / f"{name}.npz"
    if path.is_file() or os.path.lexists(path):  # a folder, or a link to nothing, is said to be none
        return dataset_from_arrays(name, read_npz(path, f"dataset {name!r} ({path})"), source=str(path))
    if is_folder(root, name):
        return folder_dataset(name, root)
    if name in VISION:
        return dataset_from_arrays(name, vision_arrays(name, root, download=download), source="torchvision")
    raise unknown(
        "dataset", name, known_datasets(root), more=f"Or put {name}.npz, or {name}/train and {name}/test, into {root}."
    )
