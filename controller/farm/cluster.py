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
from mobifarm.controller.farm.hosts import JoinedNode
from mobifarm.controller.farm.ray_host import RayHost

# Read by Ray when it is imported, so they are set before. This one is Ray's only switch that makes all of
# its sockets bind 127.0.0.1 instead of every interface; the name says nothing of that. It also refuses other
# machines, so it is left out when they are to join.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves the phones' links on a busy machine
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GRPC_VERBOSITY": "ERROR",
}
START_ATTEMPTS = 3
HOST_LABEL = "mobifarm.io/host"
JOIN_LABEL = "mobifarm.io/join"
OBJECT_STORE_BYTES = 80_000_000  # about Ray's minimum; messages between controller and hosts are small

logger = logging.getLogger(__name__)


class Cluster:
    """A Ray cluster that lives as long as this process, on this machine and on those that join."""

    def __init__(self, scratch: Path, address: str) -> None:
        self.scratch = scratch
        self.address = address

    @classmethod
    def start(cls, token_file: Path, open_at: tuple[str, int] | None = None) -> Cluster:
        """Start Ray with its own session folder: on loopback, or open to other machines.

        Args:
            open_at: this machine's address and the port by which others join. Ray then listens on every
                interface of this machine; None keeps it on 127.0.0.1.

        Raises:
            HostError: Ray cannot be started.
        """
        os.environ.update(RAY_ENVIRONMENT)
        if open_at is None:
            os.environ.update(LOOPBACK_ONLY)
        else:
            for name in LOOPBACK_ONLY:
                os.environ.pop(name, None)
            os.environ["RAY_GCS_SERVER_PORT"] = str(open_at[1])
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)
        for attempt in range(1, START_ATTEMPTS + 1):
            # Ray's unix sockets lie deep below this folder and their paths must stay under 107 bytes.
            scratch = Path(tempfile.mkdtemp(prefix="mobifarm-ray-"))
            try:
                address = _init(scratch, None if open_at is None else open_at[0])
            except Exception as error:
                shutil.rmtree(scratch, ignore_errors=True)
                # Ray gives its own processes 30 s, which a very busy computer may exceed.
                if "timed out" not in str(error) or attempt == START_ATTEMPTS:
                    raise HostError(f"Ray could not be started on this machine: {error}") from error
                logger.warning("Ray did not start in time, trying again (%s)", error)
            else:
                return cls(scratch, address)
        raise AssertionError("the last attempt returns or raises")

    def host_actor(self, name: str, *arguments: Any) -> Any:
        """The host actor ``name``, made if it is not there; Ray starts it again when its process dies."""
        return self._actor(name, arguments)

    def joined_host(self, node: JoinedNode) -> RayHost:
        """See :class:`mobifarm.controller.farm.hosts.Nodes`: pinned to its node, whose end is its own."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        pinned = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        actor = self._actor(f"{node.host}/{node.join_id}", (), scheduling_strategy=pinned)
        return RayHost(node.host, actor, joined=True)

    def host_nodes(self) -> list[JoinedNode]:
        """See :class:`mobifarm.controller.farm.hosts.Nodes`."""
        import ray
        from ray.exceptions import RayError

        try:
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        except (RayError, RuntimeError) as error:
            raise HostError(f"Ray does not tell its nodes: {error}") from error
        return [
            JoinedNode(
                node["NodeID"], labels[HOST_LABEL], labels.get(JOIN_LABEL, ""), node["NodeManagerAddress"]
            )
            for node in nodes
            if node["Alive"] and HOST_LABEL in (labels := node.get("Labels") or {})
        ]

    def _actor(self, name: str, arguments: tuple[Any, ...], **placement: Any) -> Any:
        import ray

        from mobifarm.controller.host.actor import HostActor

        return (
            ray.remote(HostActor)
            .options(
                **placement,
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


def _init(scratch: Path, own_address: str | None) -> str:
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
            _node_ip_address=own_address,
            _temp_dir=str(scratch),
            _system_config={"enable_worker_prestart": False, "prestart_worker_first_driver": False},
        )
    except BaseException:
        ray.shutdown()
        raise
    return str(ray.get_runtime_context().gcs_address)
