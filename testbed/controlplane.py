"""The control-plane tier: etcd, API server, controller-manager, scheduler, simulated nodes.

Says which flags each gets and in which order they start.  Real controllers and real admission run
here; only the kubelets of the simulated nodes are not real (``kwok``).  The Gateway API's kinds are
there as well, whether or not a gateway is.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from testbed import build, certs, kwok, manifests, netns
from testbed.cluster import Cluster
from testbed.progress import Progress

_ETCD = "http://127.0.0.1:2379"
_HPA_SYNC_SECONDS = 5
# Where several controller-managers elect a leader, one that could not reach the API server ends, and
# the next one grants every node a new grace.  This one runs on through an outage: with the default of
# 50 s it would hold its only node for lost at the end, and take all endpoints away, the gateway's too.
_NODE_GRACE = "10m"
_ROUTES = "gateway-api"


def components() -> list[str]:
    """What has to be built for this tier."""
    return ["etcd", "kubernetes", "kwok", _ROUTES]


def up(cluster: Cluster, progress: Progress) -> None:
    """Bring the tier up on a prepared instance; starts only what does not run."""
    built = build.ensure(components(), progress)
    build.link(built, cluster.bin)
    with progress.step("network namespace"):
        _make_namespace(cluster)
        # The API server takes the port that the forwarder got, so one kubeconfig works on both
        # sides.
        cluster.forward("api", "127.0.0.1", 0)
        netns.reserve(cluster.enter, cluster.api_port)
    with progress.step("etcd and kube-apiserver"):
        _write_files(cluster)
        _start_etcd(cluster)
        _start_apiserver(cluster)
    with (
        progress.step("controllers, scheduler, simulated nodes, Gateway API"),
        ThreadPoolExecutor(1) as beside,
    ):
        kinds = beside.submit(manifests.apply_kinds, cluster, _ROUTES, built[_ROUTES])
        _start_controllers(cluster)
        # Like a kubelet of every simulated node at once, hence the wide rights.
        kwok.up(cluster, client(cluster, "kwok", "kwok", "system:masters"))
        kinds.result()


def _make_namespace(cluster: Cluster) -> None:
    if not netns.is_root():
        cluster.start("namespace", netns.holder(), inside=False, grace=0.5)
    elif not netns.exists(cluster.name):
        netns.make(cluster.name)
    netns.furnish(cluster.enter)


def client(cluster: Cluster, name: str, user: str, *groups: str) -> Path:
    """The kubeconfig of ``user`` in ``groups`` for use inside the namespace; made where missing."""
    path = cluster.pki / f"{name}.kubeconfig"
    certificate, key = cluster.authority.issue(name, user, organizations=groups)
    return certs.write_kubeconfig(
        path,
        server=cluster.server,
        authority=cluster.authority.certificate_path,
        certificate=certificate,
        key=key,
        context=name,
    )


def _write_files(cluster: Cluster) -> None:
    authority = cluster.authority
    authority.issue(
        "apiserver",
        "kube-apiserver",
        dns=[
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ],
        addresses=["127.0.0.1", netns.BRIDGE_ADDRESS, netns.API_SERVICE_ADDRESS],
    )
    authority.issue(
        "apiserver-kubelet", "kube-apiserver-kubelet-client", organizations=["system:masters"]
    )
    certs.Authority(cluster.pki, "front-proxy-ca").issue("front-proxy", "front-proxy-client")
    certs.make_signing_keys(cluster.pki)
    certificate, key = authority.issue("admin", "admin", organizations=["system:masters"])
    certs.write_kubeconfig(
        cluster.kubeconfig,
        server=f"https://127.0.0.1:{cluster.api_port}",
        authority=authority.certificate_path,
        certificate=certificate,
        key=key,
        context=f"sluice-testbed-{cluster.name}",
    )
    # Metadata of every request: who, which verb, which resource, with which client.  Bodies would
    # only make the file large.
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    }
    (cluster.folder / "audit-policy.yaml").write_text(yaml.safe_dump(policy))
    scheduler = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {
            "kubeconfig": str(
                client(cluster, "kube-scheduler", "system:kube-scheduler"),
            ),
            "qps": 1000,
            "burst": 2000,
        },
    }
    (cluster.folder / "scheduler.yaml").write_text(yaml.safe_dump(scheduler))


def _start_etcd(cluster: Cluster) -> None:
    cluster.start(
        "etcd",
        [
            str(cluster.bin / "etcd"),
            "--name=testbed",
            f"--data-dir={cluster.folder / 'etcd'}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=testbed=http://127.0.0.1:2380",
            # The data need not survive the machine, only the processes.
            "--unsafe-no-fsync",
            "--quota-backend-bytes=4294967296",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=5m",
            "--log-level=warn",
        ],
        ready=f"{_ETCD}/health",
    )


def _start_apiserver(cluster: Cluster) -> None:
    pki = cluster.pki
    cluster.start(
        "kube-apiserver",
        [
            str(cluster.bin / "kube-apiserver"),
            f"--etcd-servers={_ETCD}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={netns.BRIDGE_ADDRESS}",
            f"--secure-port={cluster.api_port}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            f"--service-cluster-ip-range={netns.SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            # Webhooks and aggregated APIs behind Services work without a kube-proxy.
            "--enable-aggregator-routing=true",
            f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy.key'}",
            # exec and logs go to a node's address; nothing resolves its name.
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            f"--audit-policy-file={cluster.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={cluster.audit_log}",
            "--audit-log-maxsize=4000",
            # Benchmarks write faster than the defaults let through.
            "--max-requests-inflight=4000",
            "--max-mutating-requests-inflight=2000",
            "--delete-collection-workers=8",
            "--shutdown-delay-duration=0s",
        ],
        ready=f"https://127.0.0.1:{cluster.api_port}/readyz",
        seconds=120,
        grace=20,
    )


def _start_controllers(cluster: Cluster) -> None:
    pki = cluster.pki
    manager = client(cluster, "kube-controller-manager", "system:kube-controller-manager")
    cluster.start(
        "kube-controller-manager",
        [
            str(cluster.bin / "kube-controller-manager"),
            f"--kubeconfig={manager}",
            f"--authentication-kubeconfig={manager}",
            f"--authorization-kubeconfig={manager}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki / 'sa.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            f"--horizontal-pod-autoscaler-sync-period={_HPA_SYNC_SECONDS}s",
            f"--node-monitor-grace-period={_NODE_GRACE}",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
            "--concurrent-service-endpoint-syncs=20",
            "--concurrent-gc-syncs=30",
        ],
    )
    scheduler = cluster.pki / "kube-scheduler.kubeconfig"
    cluster.start(
        "kube-scheduler",
        [
            str(cluster.bin / "kube-scheduler"),
            f"--config={cluster.folder / 'scheduler.yaml'}",
            f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}",
            "--bind-address=127.0.0.1",
        ],
    )
    # Started together, then waited for: each takes seconds of its own.
    for name, port in (("kube-controller-manager", 10257), ("kube-scheduler", 10259)):
        url = f"https://127.0.0.1:{port}/healthz"
        cluster.remember_ready(name, url)
        cluster.wait_for(url, what=name)
