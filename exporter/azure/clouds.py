"""The Azure clouds: where Resource Manager answers, and who signs the tokens for it.

Pure facts, from Microsoft's pages on the national clouds. Knows nothing of requests or credentials.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Cloud:
    """One Azure cloud. No address ends with a slash, but for the audience of a custom cloud that needs it."""

    name: str
    endpoint: str
    """Base URL of Azure Resource Manager."""
    audience: str
    """For whom tokens are asked; not the endpoint everywhere."""
    authority: str
    """Base URL of the sign-in service (Microsoft Entra ID)."""

    @property
    def scope(self) -> str:
        """Return the OAuth2 scope of a token for Resource Manager."""
        return f"{self.audience}/.default"


CLOUDS: Final[Mapping[str, Cloud]] = MappingProxyType(
    {
        cloud.name: cloud
        for cloud in (
            Cloud(
                name="public",
                endpoint="https://management.azure.com",
                audience="https://management.azure.com",
                authority="https://login.microsoftonline.com",
            ),
            Cloud(
                name="usgovernment",
                endpoint="https://management.usgovcloudapi.net",
                audience="https://management.core.usgovcloudapi.net",
                authority="https://login.microsoftonline.us",
            ),
            Cloud(
                name="china",
                endpoint="https://management.chinacloudapi.cn",
                audience="https://management.chinacloudapi.cn",
                authority="https://login.chinacloudapi.cn",
            ),
        )
    }
)
"""The clouds that go by a name, by that name."""
