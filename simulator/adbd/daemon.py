"""adbd's process: takes links from the cable, serves their streams, reaps what shells leave behind."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from mobifarm.simulator.adbd import cable
from mobifarm.simulator.adbd.keys import PublicKey, parse_public_key
from mobifarm.simulator.adbd.link import FEATURES, Link
from mobifarm.simulator.adbd.processes import Children, adopt_orphans, kill_descendants
from mobifarm.simulator.adbd.root import PhoneRoot
from mobifarm.simulator.adbd.shell import ShellSettings, parse_destination, serve_shell
from mobifarm.simulator.adbd.sockets import UnreachableError, is_socket_destination, serve_socket
from mobifarm.simulator.adbd.stream import Stream, StreamClosedError
from mobifarm.simulator.adbd.sync import serve_sync

log = logging.getLogger("adbd")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the ``configure`` message says."""

    banner: bytes
    shell: ShellSettings
    root: PhoneRoot
    known_keys: list[PublicKey]

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Configuration:
        """Parse the message. Raises KeyError or KeyFormatError where it is not what the launcher sends."""
        properties = "".join(f"{name}={value};" for name, value in message["identity"].items())
        return cls(
            banner=f"device::{properties}features={FEATURES}".encode(),
            shell=ShellSettings(
                message["shell"],
                message["directory"],
                {**message["environment"], "MOBIFARM_ADBD_PID": str(os.getpid())},
            ),
            root=PhoneRoot(message["root"]),
            known_keys=[parse_public_key(key) for key in message["known_keys"]],
        )


class Daemon:
    """adbd's state. Implements :class:`~mobifarm.simulator.adbd.link.Device`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._children = Children()
        self._links: dict[Link, int] = {}
        self._offered: dict[Link, PublicKey] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._configuration: Configuration | None = None
        self._power_lost = asyncio.Event()

    @property
    def _configured(self) -> Configuration:
        if self._configuration is None:
            raise RuntimeError("adbd was used before its configuration came")
        return self._configuration

    @property
    def banner(self) -> bytes:
        return self._configured.banner

    @property
    def known_keys(self) -> list[PublicKey]:
        return self._configured.known_keys

    async def run(self) -> None:
        """Serve until the other end of the cable closes."""
        self._loop.add_reader(self._channel, self._on_message)
        await self._power_lost.wait()

    def _on_message(self) -> None:
        try:
            received = cable.receive(self._channel)
        except BlockingIOError:
            return
        except ConnectionError:
            received = None
        if received is None:
            self._loop.remove_reader(self._channel)
            self._power_lost.set()
            return
        message, descriptor = received
        kind = message["type"]
        if kind == "configure":
            self._configuration = Configuration.from_message(message)
            # `svc power reboot` has no other way to tell.
            self._loop.add_signal_handler(signal.SIGUSR1, self._report, {"type": "reboot"})
            self._report({"type": "ready"})
        elif kind == "link" and descriptor is not None:
            self._spawn(self._take_link(message["link"], socket.socket(fileno=descriptor)))
        elif kind == "authorised":
            self._authorise(parse_public_key(message["key"]))

    def _report(self, message: dict[str, Any]) -> None:
        try:
            cable.send(self._channel, message)
        except OSError as error:
            log.error("the cable does not take messages: %s", error)
            self._power_lost.set()

    async def _take_link(self, number: int, connection: socket.socket) -> None:
        connection.setblocking(False)
        link = Link(self)
        self._links[link] = number
        await self._loop.connect_accepted_socket(lambda: link, connection)

    def _authorise(self, key: PublicKey) -> None:
        self.known_keys.append(key)
        for link, offered in list(self._offered.items()):
            if offered.encoded == key.encoded:
                del self._offered[link]
                link.authorise()

    def offer_key(self, link: Link, key: PublicKey) -> None:
        self._offered[link] = key
        self._report({"type": "key_offered", "link": self._links[link], "key": f"{key.encoded} {key.name}"})

    def link_lost(self, link: Link) -> None:
        self._offered.pop(link, None)
        self._report({"type": "link_closed", "link": self._links.pop(link)})

    def open_service(self, stream: Stream, destination: str) -> None:
        self._spawn(self._serve(stream, destination))

    async def _serve(self, stream: Stream, destination: str) -> None:
        settings = self._configured
        try:
            if (request := parse_destination(destination)) is not None:
                await serve_shell(stream, request, settings.shell, self._children)
            elif destination == "sync:":
                await serve_sync(stream, settings.root)
            elif destination.startswith("reboot:"):
                self._report({"type": "reboot"})
            elif is_socket_destination(destination):
                await serve_socket(stream, destination, settings.root)
            else:
                log.info("no such service: %r", destination[:80])
        except (StreamClosedError, UnreachableError):
            pass
        except Exception:
            # One broken service must not take the phone down.
            log.exception("service %r failed", destination[:80])
        finally:
            stream.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _serve_phone(channel: socket.socket) -> None:
    await Daemon(channel).run()


def main() -> None:
    """Entry point: ``--channel`` is the inherited descriptor of the cable."""
    parser = argparse.ArgumentParser(prog="adbd", description="device side of the ADB protocol")
    parser.add_argument("--channel", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # What adbd creates gets exactly the mode that the host asked for.
    os.umask(0)
    channel = socket.socket(fileno=arguments.channel)
    channel.setblocking(False)
    if os.getpid() != 1:
        adopt_orphans()
    try:
        asyncio.run(_serve_phone(channel))
    finally:
        if os.getpid() != 1:
            kill_descendants()


if __name__ == "__main__":
    main()
