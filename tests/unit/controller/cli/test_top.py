from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from mobifarm.controller.cli.top import doing, power_words, render
from mobifarm.controller.core.events import DeviceAdded
from mobifarm.controller.core.step import replay
from mobifarm.controller.farm.live import LiveView
from mobifarm.controller.farm.snapshot import snapshot

PHONE: dict[str, Any] = {
    "power_watts": None,
    "charging": None,
    "modelled": False,
    "transfer": None,
    "label": None,
    "phase": None,
    "step": None,
    "target_probability": None,
    "state": "leased",
    "reason": "",
    "action": "",
}


def test_power_says_why_it_is_not_there_and_what_is_modelled() -> None:
    assert power_words(PHONE) == "–"
    assert power_words({**PHONE, "charging": True}) == "charging"
    assert power_words({**PHONE, "power_watts": 1.5}) == "1.50 W"
    assert power_words({**PHONE, "power_watts": 1.5, "modelled": True}) == "1.50 W*"


def test_what_a_phone_does() -> None:
    assert (
        doing({**PHONE, "reason": "it was unplugged", "action": "plug it in"})
        == "it was unplugged; plug it in"
    )
    lost = {**PHONE, "state": "lost", "reason": "it was unplugged", "label": "dog-1"}
    assert doing(lost) == "it was unplugged; its edit dog-1 waits for it"
    assert doing({**PHONE, "label": "dog-1"}) == "dog-1: starting"
    edit = {**PHONE, "label": "dog-1", "phase": "optimising", "step": 7, "target_probability": 0.25}
    assert doing(edit) == "dog-1: optimising, step 7, p(target) 0.25"
    assert doing({**PHONE, "transfer": "the model", "transfer_share": 0.42}) == "receiving the model: 42 %"


def test_where_there_are_several_hosts_a_notice_names_its_own() -> None:
    picture = snapshot(replay([]), LiveView(), [], 2.0, with_past=False)
    notice = {"host": "shelf", "source": "usb", "reason": "this machine shows no USB bus", "action": ""}
    console = Console(width=200, file=io.StringIO())
    for hosts in ([{"host": "shelf"}], [{"host": "desk"}, {"host": "shelf"}]):
        console.print(render({**picture, "notices": [notice], "hosts": hosts}))
    printed = str(console.file.getvalue())
    assert "\nusb: this machine shows no USB bus" in printed
    assert "\nshelf: usb: this machine shows no USB bus" in printed


def test_text_of_a_phone_neither_styles_nor_controls_the_terminal() -> None:
    picture = snapshot(replay([DeviceAdded(1.0, "a", "a", "tcp", "")]), LiveView(), [], 2.0, with_past=False)
    picture["devices"]["model"] = ["[red]evil[/red]\x1b[2J"]
    console = Console(width=200, file=io.StringIO(), force_terminal=False)
    console.print(render(picture))
    printed = str(console.file.getvalue())
    assert "[red]evil[/red]" in printed
    assert "\x1b" not in printed
