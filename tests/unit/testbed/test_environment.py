"""What of the environment goes along: no proxies, and a PATH on which system programs are found."""

import pytest

from testbed.environment import complete_path, without_proxies


def test_proxies_of_either_case_stay_behind() -> None:
    environment = {
        "http_proxy": "a",
        "HTTPS_PROXY": "b",
        "No_Proxy": "c",
        "proxy": "d",
        "HOME": "e",
    }
    assert without_proxies(environment) == {"proxy": "d", "HOME": "e"}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        pytest.param(
            "/opt/bin:/usr/bin:/bin",
            "/opt/bin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin",
            id="an ordinary user's: what is missing comes last",
        ),
        pytest.param(
            "", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", id="none at all"
        ),
    ],
)
def test_path(path: str, want: str) -> None:
    assert complete_path(path) == want
    assert complete_path(want) == want
