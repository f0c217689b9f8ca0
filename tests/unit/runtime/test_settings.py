import argparse
from pathlib import Path

import pytest

from sluice.errors import UserError
from sluice.settings import FIELDS, add_flags, load_settings


def test_flags_come_before_variables_before_defaults() -> None:
    environ = {"SLUICE_WORKERS": "8", "SLUICE_QPS": "50", "PATH": "/bin"}
    settings = load_settings({"workers": "4", "qps": None}, environ)
    assert (settings.workers, settings.qps, settings.burst) == (4, 50.0, 800)


def test_every_setting_is_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    given = parser.parse_args(["--lease-duration", "3", "--log-format", "json"])
    settings = load_settings({name: getattr(given, name) for name in FIELDS}, {})
    assert (settings.lease_duration, settings.log_format) == (3.0, "json")
    shown = parser.format_help()
    assert all(f"SLUICE_{name.upper()}" in shown.replace("\n", "") for name in FIELDS)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("SLUICE_WORKER", "8", "SLUICE_WORKER: no such setting. Did you mean SLUICE_WORKERS?"),
        ("SLUICE_WORKERS", "many", "SLUICE_WORKERS: 'many' is not a whole number"),
        ("SLUICE_WORKERS", "2.5", "SLUICE_WORKERS: '2.5' is not a whole number"),
        ("SLUICE_WORKERS", "0", "SLUICE_WORKERS: 0 is not a whole number from 1 on"),
        ("SLUICE_QPS", "nan", "SLUICE_QPS: nan is not a number from 1 on"),
        ("SLUICE_LOG_LEVEL", "loud", "'loud' is not one of debug, info, warning, error"),
    ],
)
def test_what_is_wrong_is_said(variable: str, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_settings({}, {variable: text})
    assert said in caught.value.message


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        load_settings({"qps": "fast"}, {"SLUICE_NONSENSE": "1"})
    assert "SLUICE_NONSENSE" in caught.value.message
    assert "--qps: 'fast'" in caught.value.message


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SLUICE_OPERATOR_SERVICE_HOST", "10.0.0.1"),
        ("SLUICE_OPERATOR_SERVICE_PORT", "443"),
        ("SLUICE_OPERATOR_SERVICE_PORT_WEBHOOK", "443"),
        ("SLUICE_OPERATOR_PORT", "tcp://10.0.0.1:443"),
        ("SLUICE_OPERATOR_PORT_443_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_the_addresses_that_the_kubelet_adds_are_no_settings(variable: str, text: str) -> None:
    assert load_settings({}, {variable: text}) == load_settings({}, {})


def test_a_default_works_as_it_stands(tmp_path: Path) -> None:
    assert load_settings({}, {}).probe_port == 8081
