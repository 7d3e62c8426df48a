"""Connections are turned away before the descriptors of desktops are gone."""

import resource
import subprocess
import sys

import pytest

from session_service.app import descriptors
from session_service.gateway.limits import GatewayLimits
from tests.fakes.child import child_environment


@pytest.mark.parametrize("allowed", [1024, 4096, 20_000])
def test_all_that_may_be_connected_at_once_fits_into_what_is_allowed(allowed: int) -> None:
    limits = descriptors.fitted(GatewayLimits(), allowed)
    each = (limits.links_max, limits.legs_max, limits.waiting_sockets_max, limits.page_sockets_max)
    assert 0 < limits.links_max + sum(each) < allowed - descriptors.OWN
    assert min(each) >= 16


def test_a_large_machine_has_the_limits_that_were_specified() -> None:
    for allowed in (524_288, resource.RLIM_INFINITY):
        assert descriptors.fitted(GatewayLimits(), allowed) == GatewayLimits()


def test_a_part_takes_what_it_may_have() -> None:
    """The soft limit is 1,024 nearly everywhere: a thousand idle connections ended the service for all."""
    program = (
        "import resource; from session_service.app import descriptors as d\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); d.take_all(); print(d.allowed() == hard)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"
