"""The x86 worker: ``python -m mobifarm.agent.backends.serve --socket PATH --soc SM8650``.

It owns the accelerator and serves one agent at a time, see ``protocol``. On an Android phone a program in C++
takes its place: ``htp_worker`` in the agent's folder, which mirrors these modules.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from mobifarm.agent.backends import protocol
from mobifarm.agent.backends.interface import Backend, BackendError
from mobifarm.agent.backends.protocol import Message
from mobifarm.agent.backends.snapdragon import CHIPS, chip_of

_ERROR_LIMIT = 500  # characters; a name of the agent's may be part of it


def serve(listener: socket.socket, backend: Backend) -> None:
    """Serve one agent after the other, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            try:
                while True:
                    protocol.send(connection, _answer(backend, protocol.receive(connection)))
            except (protocol.Closed, protocol.ProtocolError, OSError) as error:
                if not isinstance(error, protocol.Closed):
                    print(f"worker: {error}", file=sys.stderr)
        backend.close()  # the next agent, or the same one, loads what it needs


def _answer(backend: Backend, request: Message) -> Message:
    call, graph = request.fields.get("call"), str(request.fields.get("graph", ""))
    try:
        match call:
            case "hello":
                return Message({"version": protocol.VERSION, "accelerator": backend.accelerator})
            case "load" if "model" in request.arrays:
                backend.load(graph, request.arrays["model"].tobytes())
                return Message({})
            case "run":
                return Message({}, backend.run(graph, request.arrays))
            case "placement":
                found = backend.placement()
                return Message(
                    {
                        "operators": found.operators,
                        "on_accelerator": found.on_accelerator,
                        "estimated_cycles": found.estimated_cycles,
                        "proof": found.proof,
                    }
                )
            case _:
                return Message({"error": f"the call {str(call)[:40]!r} is not understood"})
    except BackendError as error:
        return Message({"error": str(error)[:_ERROR_LIMIT]})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mobifarm-htp-worker", allow_abbrev=False)
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen at")
    parser.add_argument("--soc", required=True, help="ro.soc.model, such as SM8650; cpu for the processor")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end with the process that started this one"
    )
    options = parser.parse_args(arguments)
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    # onnxruntime would report its use to its maker.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    backend: Backend
    try:
        if options.soc == "cpu":
            from mobifarm.agent.backends.cpu import CpuBackend

            backend = CpuBackend()
        else:
            chip = chip_of(options.soc)
            if chip is None:
                raise BackendError(
                    f"no HTP is known for {options.soc[:40]!r}: give one of {', '.join(CHIPS)}, or cpu"
                )
            from mobifarm.agent.backends.qnn_htp import QnnHtpBackend

            # Beside the socket, whatever kills a worker: the next one empties it.
            profiles = options.socket.with_name(f"{options.socket.name}.profiles").absolute()
            shutil.rmtree(profiles, ignore_errors=True)
            profiles.mkdir(parents=True, mode=0o700)
            backend = QnnHtpBackend(chip, profiles)
        with socket.socket(socket.AF_UNIX) as listener:
            # By its name alone: the kernel takes no long paths.
            options.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chdir(options.socket.parent)
            place = Path(options.socket.name)
            place.unlink(missing_ok=True)
            listener.bind(str(place))
            place.chmod(0o600)
            listener.listen(1)
            # Nobody reads on after this word, and what native code may say later must not fill the pipe.
            with open(os.dup(1), "w") as reader:
                os.dup2(2, 1)
                reader.write("ready\n")
            serve(listener, backend)
    except (BackendError, OSError) as error:
        print(f"mobifarm-htp-worker: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_stdin() -> None:
    # Not through sys.stdin: Python cannot end in peace while a thread holds its lock.
    while os.read(0, 4096):
        pass
    os._exit(0)  # the main thread may be deep in native code


if __name__ == "__main__":
    sys.exit(main())
