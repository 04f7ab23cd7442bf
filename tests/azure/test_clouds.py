"""The named clouds, held against Microsoft's published addresses."""

from dataclasses import FrozenInstanceError

import pytest

from exporter.azure.clouds import CLOUDS, Cloud


@pytest.mark.parametrize(
    ("name", "endpoint", "scope", "authority"),
    [
        (
            "public",
            "https://management.azure.com",
            "https://management.azure.com/.default",
            "https://login.microsoftonline.com",
        ),
        (
            "usgovernment",
            "https://management.usgovcloudapi.net",
            "https://management.core.usgovcloudapi.net/.default",
            "https://login.microsoftonline.us",
        ),
        (
            "china",
            "https://management.chinacloudapi.cn",
            "https://management.chinacloudapi.cn/.default",
            "https://login.chinacloudapi.cn",
        ),
    ],
)
def test_a_named_cloud_has_the_addresses_that_microsoft_publishes(
    name: str, endpoint: str, scope: str, authority: str
) -> None:
    cloud = CLOUDS[name]
    assert (cloud.name, cloud.endpoint, cloud.scope, cloud.authority) == (name, endpoint, scope, authority)


def test_there_are_three_named_clouds() -> None:
    assert tuple(CLOUDS) == ("public", "usgovernment", "china")


def test_the_final_slash_of_an_audience_survives_in_the_scope() -> None:
    """Entra ID compares the audience to the letter, and takes it from before ``/.default``."""
    cloud = Cloud("custom", "https://arm.example", "https://arm.example/", "https://login.example")
    assert cloud.scope == "https://arm.example//.default"


def test_a_cloud_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        CLOUDS["public"].endpoint = "https://elsewhere.example"  # type: ignore[misc]
