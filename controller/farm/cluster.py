"""Ray as a disposable engine: started for this farm alone, bound to loopback, and left without a trace.

Ray holds no truth here. A host actor that dies comes back empty and reports its phones anew; jobs, leases and
results are in the store.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mobifarm.controller.errors import HostError

# Read by Ray when it is imported, so they are set before. The first is Ray's only switch that makes all of
# its sockets bind 127.0.0.1 instead of every interface; the name says nothing of that.
RAY_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GRPC_VERBOSITY": "ERROR",
}
START_ATTEMPTS = 3
OBJECT_STORE_BYTES = 80_000_000  # about Ray's minimum; messages between controller and hosts are small

logger = logging.getLogger(__name__)


class LocalCluster:
    """A Ray cluster of this one machine, living as long as this process."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    @classmethod
    def start(cls, token_file: Path) -> LocalCluster:
        """Start Ray on loopback with its own session folder.

        Raises:
            HostError: Ray cannot be started.
        """
        os.environ.update(RAY_ENVIRONMENT)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)
        for attempt in range(1, START_ATTEMPTS + 1):
            # Ray's unix sockets lie deep below this folder and their paths must stay under 107 bytes.
            scratch = Path(tempfile.mkdtemp(prefix="mobifarm-ray-"))
            try:
                _init(scratch)
            except Exception as error:
                shutil.rmtree(scratch, ignore_errors=True)
                # Ray gives its own processes 30 s, which a very busy computer may exceed.
                if "timed out" not in str(error) or attempt == START_ATTEMPTS:
                    raise HostError(f"Ray could not be started on this machine: {error}") from error
                logger.warning("Ray did not start in time, trying again (%s)", error)
            else:
                return cls(scratch)
        raise AssertionError("the last attempt returns or raises")

    def host_actor(self, name: str, *arguments: Any) -> Any:
        """The host actor ``name``, made if it is not there; Ray starts it again when its process dies."""
        import ray

        from mobifarm.controller.host.actor import HostActor

        return (
            ray.remote(HostActor)
            .options(
                name=f"host/{name}",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                # A call that touches a phone is never repeated by Ray: the farm decides from its log.
                max_task_retries=0,
                max_concurrency=1000,
            )
            .remote(*arguments)
        )

    def stop(self) -> None:
        """Stop Ray (this cluster only) and remove its folder."""
        import ray

        ray.shutdown()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _init(scratch: Path) -> None:
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=1,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            _temp_dir=str(scratch),
            _system_config={"enable_worker_prestart": False, "prestart_worker_first_driver": False},
        )
    except BaseException:
        ray.shutdown()
        raise
