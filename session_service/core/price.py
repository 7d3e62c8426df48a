"""What saving costs: requests, stored bytes and traffic by month, over named prices.

Pure, and a model: it counts what the protocol asks of a store, not what a provider's bill says. Nothing
decides by it. Prices are list prices of one large provider and are meant to be replaced by one's own.

Source: docs/design/0017-saving-by-rule.md.
"""

from dataclasses import dataclass
from typing import Final

GB: Final = 1e9
MONTH_S: Final = 30 * 86_400
GETS_OF_SAVE: Final = 7
"""GET and HEAD of a save with something new; a test counts them."""
FOLD_ENTRIES: Final = 64
"""Small entries that one fold takes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In one currency. Defaults: S3 Standard, us-east-1, list prices in US dollars."""

    put_per_1000: float = 0.005
    """PUT and LIST."""
    get_per_1000: float = 0.0004
    """GET and HEAD."""
    gb_month: float = 0.023
    egress_gb: float = 0.0
    """Within the store's region nothing; out to the internet 0.09."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one user does in a month."""

    hours: float = 160.0
    """With a desktop open."""
    changing_share: float = 0.5
    """Of that time in which something changes within each interval."""
    interval_s: float = 10.0
    sessions: float = 22.0
    home_gb: float = 10.0
    compressed_share: float = 0.72
    """Sealed bytes by bytes; 0.72 was measured on a home of documents, code and pictures."""
    tick_mb: float = 0.1
    """New sealed bytes of a save that has something new."""
    kept_factor: float = 1.3
    """What is stored by what is in the newest checkpoint: older ones that are kept."""
    restored_share: float = 1.0
    """Of the sessions that begin with a whole restore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """One user's month."""

    puts: float
    gets: float
    gb_months: float
    folded_entries: float
    egress_gb: float
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What an installation asked of its store in some time, as its workers counted it."""

    seconds: float
    puts: int
    gets: int
    heads: int
    lists: int
    fetched_bytes: int


def counted_price(counted: Counted, prices: Prices) -> tuple[float, float]:
    """Return (price of the requests and of traffic so far, the same for a month at this rate).

    What is stored costs on top of that: only the provider counts it. Deletes are free there.
    """
    so_far = (
        (counted.puts + counted.lists) / 1_000 * prices.put_per_1000
        + (counted.gets + counted.heads) / 1_000 * prices.get_per_1000
        + counted.fetched_bytes / GB * prices.egress_gb
    )
    return so_far, so_far * MONTH_S / max(counted.seconds, 1.0)


def bill(use: Use, prices: Prices) -> Bill:
    """Return what one user's month asks of the store, and its price.

    A save with something new is one PUT; before the plan and again before the PUT, a GET each of the number
    behind the end and of the entry at the end; afterwards a GET (read back) and two HEADs (predecessor, guard
    of a fold). A session is an E, two checkpoints of its close, a receipt
    and one listing; a fold reads what it takes in and writes a history and a pack.
    """
    saves = use.hours * 3_600 * use.changing_share / use.interval_s
    folds = saves / FOLD_ENTRIES
    packs = use.home_gb * GB * use.compressed_share / (16 * 2**20)
    puts = saves + 5 * use.sessions + 4 * folds
    gets = GETS_OF_SAVE * saves + 20 * use.sessions + (FOLD_ENTRIES + 8) * folds
    gets += use.sessions * use.restored_share * packs
    stored_gb = use.home_gb * use.compressed_share * use.kept_factor + saves * use.tick_mb / 1e3 / 2
    egress_gb = use.sessions * use.restored_share * use.home_gb * use.compressed_share
    price = (
        puts / 1_000 * prices.put_per_1000
        + gets / 1_000 * prices.get_per_1000
        + stored_gb * prices.gb_month
        + egress_gb * prices.egress_gb
    )
    return Bill(
        puts=puts,
        gets=gets,
        gb_months=stored_gb,
        folded_entries=folds * FOLD_ENTRIES,
        egress_gb=egress_gb,
        price=price,
    )
