"""Data sets by name: `load_dataset` reads one from its registered name, or from a file or folder of the user's."""

from hwnas.accuracy.datasets.bundled import digits, mnist_5k, watch
from hwnas.accuracy.datasets.dataset import Dataset, Part, load_dataset
from hwnas.accuracy.datasets.files import folder, npz

__all__ = ["Dataset", "Part", "digits", "folder", "load_dataset", "mnist_5k", "npz", "watch"]
