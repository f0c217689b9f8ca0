"""Certificates: who they name, whom they trust, who may read the keys."""

import ipaddress
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed.certs import Authority, make_signing_keys, write_kubeconfig


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_server_certificate_names_every_host_and_address_and_is_signed_by_the_authority(tmp_path):
    authority = Authority(tmp_path)
    path, _ = authority.issue(
        "apiserver",
        "kube-apiserver",
        dns=["kubernetes.default"],
        addresses=["127.0.0.1", "10.96.0.1"],
    )
    certificate = read(path)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert names.get_values_for_type(x509.DNSName) == ["kubernetes.default"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("10.96.0.1"),
    ]
    assert ExtendedKeyUsageOID.SERVER_AUTH in usage
    certificate.verify_directly_issued_by(read(authority.certificate_path))


def test_a_client_certificate_carries_user_and_groups_and_serves_nothing(tmp_path):
    path, _ = Authority(tmp_path).issue("kubelet", "system:node:n1", organizations=["system:nodes"])
    certificate = read(path)
    subject = certificate.subject
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [
        "system:node:n1"
    ]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == [
        "system:nodes"
    ]
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_what_is_there_is_kept_so_that_a_second_up_changes_no_identity(tmp_path):
    first = Authority(tmp_path)
    before = (
        first.issue("admin", "admin")[0].read_bytes(),
        make_signing_keys(tmp_path)[0].read_bytes(),
    )
    second = Authority(tmp_path)
    after = (
        second.issue("admin", "admin")[0].read_bytes(),
        make_signing_keys(tmp_path)[0].read_bytes(),
    )
    assert before == after


@pytest.mark.parametrize("name", ["ca.key", "admin.key", "sa.key", "kubeconfig"])
def test_secrets_are_readable_by_their_owner_only(tmp_path, name):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("admin", "admin")
    make_signing_keys(tmp_path)
    write_kubeconfig(
        tmp_path / "kubeconfig",
        server="https://127.0.0.1:1",
        authority=authority.certificate_path,
        certificate=certificate,
        key=key,
        context="testbed",
    )
    assert (tmp_path / name).stat().st_mode & 0o077 == 0


def test_a_kubeconfig_selects_its_own_context(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("admin", "admin")
    path = write_kubeconfig(
        tmp_path / "kubeconfig",
        server="https://127.0.0.1:6443",
        authority=authority.certificate_path,
        certificate=certificate,
        key=key,
        context="here",
    )
    config = yaml.safe_load(path.read_text())
    assert config["current-context"] == "here"
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
