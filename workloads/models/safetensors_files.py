"""Tensors of a Hugging Face folder, read one at a time: a folder may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mobifarm.workloads.errors import WorkloadInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_BODY = "model."
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})  # weights as they are: others need scales of their own


class SafetensorsFiles:
    """The tensors in ``folder``, by their Hugging Face names."""

    def __init__(self, folder: Path) -> None:
        """Read the files' headers; raises WorkloadInputError where there are none or one is damaged."""
        from safetensors import SafetensorError, safe_open

        self._folder = folder
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, list[int]] = {}
        self._types: dict[str, str] = {}
        try:
            for path in _files(folder):
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 (it is no mapping)
                        if name in self._files:
                            other = self._files[name].name
                            raise ValueError(f"{name} is in both {other} and {path.name}")
                        described = file.get_slice(name)
                        self._files[name] = path
                        self._shapes[name], self._types[name] = described.get_shape(), described.get_dtype()
        except (
            OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, SafetensorError
        ) as error:  # fmt: skip
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise WorkloadInputError(f"{folder.name} cannot be read as a model ({reason})") from error
        # A model that was saved without its output projection has names without this part.
        self._prefix = _BODY if any(name.startswith(_BODY) for name in self._files) else ""

    def __contains__(self, name: str) -> bool:
        return self._stored(name) in self._files

    def require(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises WorkloadInputError where one of these tensors is missing, or is not what a model needs."""
        missing = sorted(name for name in shapes if name not in self)
        if missing:
            raise WorkloadInputError(
                f"{self._folder.name} lacks {len(missing)} of the model's tensors, such as {missing[0]}: "
                "get the whole folder again"
            )
        for name, wanted in shapes.items():
            found, kind = self._shapes[self._stored(name)], self._types[self._stored(name)]
            if found != list(wanted):
                raise WorkloadInputError(
                    f"{self._folder.name} has {name} of shape {found}, which by its config.json is "
                    f"{list(wanted)}: get the whole folder again"
                )
            if kind not in _FLOATS:
                raise WorkloadInputError(
                    f"{self._folder.name} has {name} in {kind}, which bundles do not support: "
                    "use an unquantised model"
                )

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as f32; KeyError where there is none."""
        import torch
        from safetensors import safe_open

        stored = self._stored(name)
        # Opened anew each time: as long as a file is open, what was read of it stays in memory.
        with safe_open(self._files[stored], "pt") as file:
            array: NDArray[np.float32] = file.get_tensor(stored).to(torch.float32).numpy()
        return array

    def _stored(self, name: str) -> str:
        return self._prefix + name.removeprefix(_BODY) if name.startswith(_BODY) else name


def _files(folder: Path) -> list[Path]:
    if (folder / _ONE_FILE).is_file():
        return [folder / _ONE_FILE]
    if not (folder / _INDEX).is_file():
        raise FileNotFoundError(f"there is neither {_ONE_FILE} nor {_INDEX}")
    names = json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"].values()
    return [folder / Path(name).name for name in sorted(set(names))]
