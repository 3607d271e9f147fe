"""The phone's /system/bin: toybox and mksh, which Android's own userland is made of, and a few scripts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_GETPROP = """\
#!{shell}
file="${{ANDROID_ROOT:-/system}}/build.prop"
while IFS='=' read -r name value; do
  if [ $# -eq 0 ]; then
    echo "[$name]: [$value]"
  elif [ "$name" = "$1" ]; then
    echo "$value"
    exit 0
  fi
done < "$file"
[ $# -eq 0 ] || echo "${{2-}}"
"""

_DUMPSYS = """\
#!{shell}
file="{services}/${{1-}}"
case "${{1-}}" in
  ''|.*|*..*) echo "usage: dumpsys SERVICE" >&2; exit 1 ;;
esac
if [ -f "$file" ]; then
  cat "$file"
else
  echo "Can't find service: $1"
fi
"""

_SVC = """\
#!{shell}
case "${{1-}} ${{2-}}" in
  'power reboot') kill -s USR1 "$MOBIFARM_ADBD_PID" ;;
  *) echo "usage: svc power reboot" >&2; exit 1 ;;
esac
"""

# A virtual phone has no screen: what would press its keys is written down for whoever looks.
_INPUT = """\
#!{shell}
case "${{1-}} ${{2-}}" in
  'keyevent '?*) echo "$2" >> "${{ANDROID_DATA:-/data}}/local/tmp/input-events" ;;
  *) echo "usage: input keyevent CODE" >&2; exit 1 ;;
esac
"""

_ID = """\
#!{shell}
case "${{1-}}" in
  '') echo "uid=2000(shell) gid=2000(shell) groups=2000(shell)" ;;
  -u | -g | -G) echo 2000 ;;
  -un | -gn | -Gn | -nu | -ng | -nG) echo shell ;;
  *) echo "usage: id [-u|-g|-G] [-n]" >&2; exit 1 ;;
esac
"""

_WHOAMI = """\
#!{shell}
echo shell
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs of the host that the phone's userland is made from; None where one is not installed."""

    toybox: Path | None
    mksh: Path | None

    @property
    def missing(self) -> list[str]:
        """Debian packages that would make the userland Android's."""
        return [name for name, path in (("toybox", self.toybox), ("mksh", self.mksh)) if path is None]


def find_tools() -> Tools:
    """Look the tools up on PATH."""
    found = [shutil.which(name) for name in ("toybox", "mksh")]
    return Tools(*(Path(path).resolve() if path else None for path in found))


def applet_names(toybox: Path) -> list[str]:
    """Names of all commands that this toybox holds."""
    output = subprocess.run([toybox], capture_output=True, text=True, check=True, timeout=10).stdout
    return [name for name in output.split() if name != "toybox"]


def write_scripts(
    bin_directory: Path, *, shell_path: str, services: str, with_identity: bool = False
) -> None:
    """Write getprop, dumpsys, svc and input; the paths are as the phone sees them.

    ``with_identity`` adds id and whoami: a phone has no /etc/passwd, from which toybox's would take names.
    """
    scripts = {"getprop": _GETPROP, "dumpsys": _DUMPSYS, "svc": _SVC, "input": _INPUT}
    if with_identity:
        scripts |= {"id": _ID, "whoami": _WHOAMI}
    for name, text in scripts.items():
        script = bin_directory / name
        script.unlink(missing_ok=True)
        script.write_text(text.format(shell=shell_path, services=services), encoding="utf-8")
        script.chmod(0o755)


def link_applets(bin_directory: Path, toybox: Path) -> None:
    """Link every toybox command to the ``toybox`` beside it, where nothing of that name is there yet."""
    for name in applet_names(toybox):
        link = bin_directory / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to("toybox")


def format_build_properties(properties: Mapping[str, str]) -> str:
    """The text of build.prop. Raises ValueError for names or values that would break its lines."""
    for name, value in properties.items():
        if "=" in name or "\n" in name + value:
            raise ValueError(f"property {name!r} cannot be written to build.prop")
    return "".join(f"{name}={value}\n" for name, value in sorted(properties.items()))
