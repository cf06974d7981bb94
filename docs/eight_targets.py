"""Eight target datasets for `--plugin`: the two embedded sets of digits, turned, inverted and upside down."""

import numpy as np

from metasum.tasks import register_dataset
from metasum.tasks.embedded import digits, printed_digits


def changed(arrays, change):
    (x_train, y_train), (x_test, y_test) = arrays()
    return (change(x_train), y_train), (change(x_test), y_test)


for name, arrays in (("digits", digits), ("printed", printed_digits)):
    register_dataset(f"{name}-turned", lambda arrays=arrays: changed(arrays, lambda x: np.rot90(x, axes=(1, 2))))
    register_dataset(f"{name}-inverted", lambda arrays=arrays: changed(arrays, lambda x: 255 - x))
    register_dataset(
        f"{name}-upside-down", lambda arrays=arrays: changed(arrays, lambda x: np.rot90(x, 2, axes=(1, 2)))
    )
