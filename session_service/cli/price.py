"""`session-service price`: what saving costs by user and month, by the model of `core/price.py`.

The model asks nobody: no service need run, and no store is reached. `--counted` asks the running service for
what its workers counted.
"""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from session_service.base import errors
from session_service.cli import console
from session_service.cli.console import AsJson, StateFolder
from session_service.core.price import Counted, Prices, Use, bill, counted_price


def price(
    users: Annotated[int, typer.Option(min=1, help="How many users there are.")] = 1,
    interval_s: Annotated[float, typer.Option(min=1, help="Seconds between saves.")] = 10.0,
    hours: Annotated[float, typer.Option(min=0, max=744, help="Hours with a desktop, by month.")] = 160.0,
    home_gb: Annotated[float, typer.Option(min=0, help="Size of a home.")] = 10.0,
    put_per_1000: Annotated[float, typer.Option(min=0, help="Price of 1,000 PUTs.")] = 0.005,
    get_per_1000: Annotated[float, typer.Option(min=0, help="Price of 1,000 GETs.")] = 0.0004,
    gb_month: Annotated[float, typer.Option(min=0, help="Price of a gigabyte for a month.")] = 0.023,
    egress_gb: Annotated[float, typer.Option(min=0, help="Price of a gigabyte out of the store.")] = 0.0,
    counted: Annotated[
        bool, typer.Option("--counted", help="Not the model: what the running service asked of its store.")
    ] = False,
    state_folder: StateFolder = None,
    json: AsJson = False,
) -> None:
    """Say what the object store costs by user and month. Defaults are list prices of S3 in US dollars.

    Example: session-service price --users 200 --interval-s 30 --home-gb 5
    """
    use = Use(interval_s=interval_s, hours=hours, home_gb=home_gb)
    prices = Prices(
        put_per_1000=put_per_1000, get_per_1000=get_per_1000, gb_month=gb_month, egress_gb=egress_gb
    )
    if counted:
        _say_counted(prices, state_folder, json=json)
        return
    found = bill(use, prices)
    if json:
        told = dataclasses.asdict(found) | {"users": users, "price_all": found.price * users}
        console.print_json(told)
        return
    console.facts(
        [
            ("PUT requests", f"{found.puts:,.0f}"),
            ("GET requests", f"{found.gets:,.0f}"),
            ("stored", f"{found.gb_months:,.1f} GB"),
            ("entries folded", f"{found.folded_entries:,.0f}"),
            ("out of the store", f"{found.egress_gb:,.1f} GB"),
            ("by user and month", f"{found.price:,.2f}"),
            (f"for {users} users", f"{found.price * users:,.2f}"),
        ]
    )


def _say_counted(prices: Prices, state_folder: Path | None, *, json: bool) -> None:
    """Say what was counted, what that cost, and what a month of it would."""
    status = console.run(lambda api: api.status(), state_folder)
    traffic = status.storage.traffic
    if traffic is None:
        raise errors.StorageUnavailable("No worker has opened the store yet. Try again after a save.")
    seconds = (datetime.fromisoformat(status.time) - datetime.fromisoformat(traffic.since)).total_seconds()
    so_far, month = counted_price(
        Counted(
            seconds=seconds,
            puts=traffic.puts,
            gets=traffic.gets,
            heads=traffic.heads,
            lists=traffic.lists,
            fetched_bytes=traffic.fetched_bytes,
        ),
        prices,
    )
    if json:
        told = msgspec.to_builtins(traffic)
        console.print_json(told | {"price": so_far, "price_of_a_month": month})
        return
    console.facts(
        [
            ("counted since", console.moment(traffic.since)),
            ("PUT requests", f"{traffic.puts:,}"),
            ("GET requests", f"{traffic.gets:,}"),
            ("HEAD requests", f"{traffic.heads:,}"),
            ("LIST requests", f"{traffic.lists:,}"),
            ("DELETE requests", f"{traffic.deletes:,}"),
            ("without an answer", f"{traffic.failures:,}"),
            ("sent", console.size(traffic.sent_bytes)),
            ("fetched", console.size(traffic.fetched_bytes)),
            ("price so far", f"{so_far:,.4f}, without what is stored"),
            ("a month of this", f"{month:,.2f}"),
        ]
    )
