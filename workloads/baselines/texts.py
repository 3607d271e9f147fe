"""A bundle's tokenizer and shape, read without its graphs."""

from __future__ import annotations

from pathlib import Path

from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.editor.manifest import Architecture, Manifest
from mobifarm.agent.editor.tokenizer import Tokenizer


class BundleTexts(Tokenizer):
    """Tokenizer and shape of the bundle in ``folder``, without its graphs and without ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        """Raises BundleError where the bundle cannot be read."""
        self.manifest: Manifest = read_manifest(folder)[0]
        super().__init__(folder / self.manifest.tokenizer.file, self.manifest.tokenizer)

    @property
    def architecture(self) -> Architecture:
        """Shape of the model."""
        return self.manifest.architecture
