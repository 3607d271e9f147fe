"""Which Snapdragon chips have an HTP that these graphs can run on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip: its ``ro.soc.model``, Qualcomm's number for it and the architecture of its Hexagon."""

    model: str
    soc_id: int
    architecture: str


# Numbers and architectures as libQnnHtp of onnxruntime-qnn 2.7.0 knows them.
_CHIPS = (
    ("SM8350", 30, "v68"),
    ("SM7325", 35, "v68"),
    ("SM7350", 32, "v68"),
    ("QCS6490", 93, "v68"),
    ("SM7450", 41, "v68"),
    ("SM7435", 61, "v68"),
    ("SM6450", 50, "v68"),
    ("SM6475", 76, "v68"),
    ("SM7475", 54, "v68"),
    ("SM8450", 36, "v69"),
    ("SM8475", 42, "v69"),
    ("SM8550", 43, "v73"),
    ("QCS8550", 66, "v73"),
    ("SC8380XP", 60, "v73"),
    ("SM8635", 68, "v73"),
    ("SM7675", 70, "v73"),
    ("SM8735", 85, "v73"),
    ("SM7750", 86, "v73"),
    ("SM7550", 64, "v73"),
    ("SM7635", 73, "v73"),
    ("SM6650", 74, "v73"),
    ("SM8650", 57, "v75"),
    ("SM8750", 69, "v79"),
    ("SM8845", 97, "v81"),
    ("SM8850", 87, "v81"),
)
CHIPS = {model: Chip(model, soc_id, architecture) for model, soc_id, architecture in _CHIPS}


def chip_of(soc_model: str) -> Chip | None:
    """The chip with that ``ro.soc.model``; None where no HTP is known for it."""
    return CHIPS.get(soc_model.strip().upper())
