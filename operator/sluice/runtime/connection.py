"""Where the API server is and how to prove who we are: one loading for our client and for kopf.

In this order: an explicit kubeconfig (argument or $KUBECONFIG), the pod's service account,
``~/.kube/config``. It connects to nothing by itself.
"""

import os
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from sluice.errors import UserError


async def load_connection(kubeconfig: str = "", context: str = "") -> Configuration:
    """The client configuration. Raises UserError("NoCluster") when there is none to be found."""
    path = kubeconfig or os.environ.get("KUBECONFIG", "")
    connection = Configuration()
    try:
        if not path and "KUBERNETES_SERVICE_HOST" in os.environ:
            # Re-reads the projected token every minute.
            config.load_incluster_config(client_configuration=connection)
        else:
            await config.load_kube_config(
                config_file=path or str(Path.home() / ".kube" / "config"),
                context=context or None,
                client_configuration=connection,
                persist_config=False,
            )
    except (config.ConfigException, OSError) as error:
        tried = f"kubeconfig {path}" if path else "a pod's service account, ~/.kube/config"
        raise UserError(
            "NoCluster",
            f"cannot tell how to reach a cluster (tried: {tried}): {error}. "
            "Give --kubeconfig or set KUBECONFIG, or run in a pod with a service account.",
        ) from error
    connection.retries = None  # Api retries by itself, and counts
    return connection
