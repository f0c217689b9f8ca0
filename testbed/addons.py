"""What a cluster has besides its node: DNS (CoreDNS), metrics (metrics-server), an image registry.

They run as plain processes beside the kubelet, not as pods, so that they need no images; Services
without a selector lead to them.  The gateway, which does run in pods, is in ``gateway``.
"""

from typing import Any

import yaml

from testbed import controlplane, kubelet, netns, nodespace
from testbed.cluster import Cluster

REGISTRY = "registry.testbed:5000"
"""The registry's name in image references; containerd, pods and ``REGISTRY_URL`` all lead to it."""
REGISTRY_URL = f"http://{netns.BRIDGE_ADDRESS}:5000"

_METRICS_PORT = 4443
_APPLIED = "addons-applied"
_SYSTEM = "system:masters"

_COREFILE = """\
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{
    bind {address}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig} coredns
        pods insecure
        ttl 1
    }}
    loadbalance
}}
testbed:53 {{
    bind {address}
    errors
    hosts {{
        {address} registry.testbed
    }}
}}
# There is no world outside the namespace: any other name exists nowhere.
.:53 {{
    bind {address}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def components() -> list[str]:
    """What has to be built for the add-ons."""
    return ["coredns", "metrics-server", "registry"]


def up(cluster: Cluster) -> None:
    """Start the processes and apply their Services; returns once each process answers."""
    _start_registry(cluster)
    _start_dns(cluster)
    _start_metrics(cluster)
    manifests = yaml.safe_dump_all(make_manifests())
    if cluster.recall(_APPLIED) != manifests:
        arguments = ("--server-side", "--field-manager=testbed", "-f", "-")
        cluster.kubectl("apply", *arguments, input=manifests)
        cluster.remember(_APPLIED, manifests)


def _start_registry(cluster: Cluster) -> None:
    data = nodespace.data_folder(cluster.name)
    configuration = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(data / "registry")},
            "delete": {"enabled": True},
            # A blob deleted by hand must not seem to be there still.
            "cache": {},
        },
        "http": {"addr": f"{netns.BRIDGE_ADDRESS}:5000", "secret": "testbed"},
    }
    path = data / "registry.yaml"
    path.write_text(yaml.safe_dump(configuration))
    nodespace.start(
        cluster,
        "registry",
        [str(cluster.bin / "registry"), "serve", str(path)],
        ready=f"{REGISTRY_URL}/v2/",
    )


def _start_dns(cluster: Cluster) -> None:
    corefile = nodespace.data_folder(cluster.name) / "Corefile"
    corefile.write_text(
        _COREFILE.format(
            address=netns.BRIDGE_ADDRESS,
            kubeconfig=controlplane.client(cluster, "coredns", "testbed:coredns", _SYSTEM),
        )
    )
    nodespace.start(
        cluster,
        "coredns",
        [str(cluster.bin / "coredns"), "-conf", str(corefile)],
        ready="http://127.0.0.1:8181/ready",
    )


def _start_metrics(cluster: Cluster) -> None:
    kubeconfig = controlplane.client(cluster, "metrics-server", "testbed:metrics-server", _SYSTEM)
    certificate, key = cluster.authority.issue(
        "metrics-server-serving", "metrics-server", addresses=[netns.BRIDGE_ADDRESS]
    )
    nodespace.start(
        cluster,
        "metrics-server",
        [
            str(cluster.bin / "metrics-server"),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={netns.BRIDGE_ADDRESS}",
            f"--secure-port={_METRICS_PORT}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            # Simulated nodes have the real one's address, and would be given its figures.
            f"--node-selector=kubernetes.io/hostname={kubelet.NODE}",
            f"--kubelet-certificate-authority={cluster.authority.certificate_path}",
            "--kubelet-preferred-address-types=InternalIP",
            # A resolution not well above the timeout ends in a panic.
            "--metric-resolution=15s",
            "--kubelet-request-timeout=5s",
        ],
        ready=f"https://{netns.BRIDGE_ADDRESS}:{_METRICS_PORT}/livez",
    )


def make_manifests() -> list[dict[str, Any]]:
    """The Services that lead to the processes, the metrics API and the RuntimeClass ``nvidia``."""
    return [
        *_make_service(
            "kube-dns",
            ports={"dns": ("UDP", 53, 53), "dns-tcp": ("TCP", 53, 53)},
            cluster_ip=netns.DNS_SERVICE_ADDRESS,
        ),
        *_make_service("metrics-server", ports={"https": ("TCP", 443, _METRICS_PORT)}),
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"namespace": "kube-system", "name": "metrics-server", "port": 443},
            },
        },
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "nvidia"},
            "handler": "nvidia",
        },
    ]


def _make_service(
    name: str, *, ports: dict[str, tuple[str, int, int]], cluster_ip: str = ""
) -> list[dict[str, Any]]:
    """A Service without selector in kube-system and its one endpoint, the bridge's address.

    ``ports`` maps a name to (protocol, the Service's port, the process's port).
    """
    spec: dict[str, Any] = {
        "ports": [
            {"name": each, "protocol": protocol, "port": port, "targetPort": target}
            for each, (protocol, port, target) in ports.items()
        ]
    }
    if cluster_ip:
        spec["clusterIP"] = cluster_ip
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": spec,
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-testbed",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [netns.BRIDGE_ADDRESS], "conditions": {"ready": True}}],
            "ports": [
                {"name": each, "protocol": protocol, "port": target}
                for each, (protocol, _, target) in ports.items()
            ],
        },
    ]
