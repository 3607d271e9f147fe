"""One small model with random weights: in torch, and as fp32 and int8 bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobifarm.agent.editor.bundle import Bundle
from mobifarm.workloads.baselines.texts import BundleTexts
from mobifarm.workloads.baselines.torch_model import TorchModel
from mobifarm.workloads.models.build import Precision, build_bundle
from mobifarm.workloads.models.sources import TinyRandom
from mobifarm.workloads.preparation.decoder import TorchDecoder


@pytest.fixture(scope="session")
def fp32_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(
        TinyRandom(), tmp_path_factory.mktemp("bundles"), precision=Precision.FP32, edit_layer=1
    ).path


@pytest.fixture(scope="session")
def bundle(fp32_bundle_path: Path) -> Bundle:
    return Bundle.open(fp32_bundle_path, threads=1, verify=False)


@pytest.fixture(scope="session")
def model(fp32_bundle_path: Path) -> TorchModel:
    torch.set_num_threads(1)
    decoder = TorchDecoder(TinyRandom().load(lambda words: None))
    return TorchModel(decoder, BundleTexts(fp32_bundle_path))
