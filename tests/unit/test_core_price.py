"""The price of a month, by hand and by direction."""

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from session_service.cli.main import application_for
from session_service.core.price import Prices, Use, bill

ONLY_SAVES = Use(sessions=0, home_gb=0, tick_mb=0, hours=10, changing_share=1, interval_s=10)


def test_a_month_of_saves_costs_its_requests():
    """3,600 saves, 56.25 folds of 64."""
    found = bill(ONLY_SAVES, Prices())
    assert found.puts == 3_600 + 4 * 56.25
    assert found.gets == 7 * 3_600 + 72 * 56.25
    assert found.price == pytest.approx(3_825 * 0.005 / 1e3 + 29_250 * 0.0004 / 1e3)


def test_saving_half_as_often_costs_half_the_requests():
    assert bill(replace(ONLY_SAVES, interval_s=20), Prices()).puts == bill(ONLY_SAVES, Prices()).puts / 2


def test_traffic_costs_only_where_it_has_a_price():
    assert bill(Use(), Prices(egress_gb=0.09)).price > bill(Use(), Prices()).price


def test_the_command_says_the_price_for_all():
    told = CliRunner().invoke(application_for(["price"]), ["price", "--users", "200", "--json"])
    assert told.exit_code == 0, told.output
    assert '"price_all"' in told.output
