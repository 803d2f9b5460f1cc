"""The gate: which measured variants may be shipped, and why the others may not."""

from __future__ import annotations

from edgepv.types import Audit, Measurement, PairedDrop


def within_gate(row: Measurement) -> bool:
    """Whether a variant may be shipped; ``gate_failure`` says why not."""
    return gate_failure(row) is None


def gate_failure(row: Measurement) -> str | None:
    """Why a variant must not be shipped: its engine, parity, accuracy, INT8 in name only; None if it may."""
    parity, drop, audit = row.parity, row.drop, row.audit
    if row.blocked:
        return row.blocked
    if parity and parity.verdict == "fail":
        where, (what, sqnr) = parity.first_divergence or "no single node", parity.least
        return f"parity of {what}, {sqnr:.1f} dB, is below {parity.min_sqnr_db:.0f} dB, first at {where}"
    if drop and drop.verdict == "fail":
        loss, low, high = drop.figures()
        what = "it is expected to lose" if drop.counted else "it loses"
        return f"{what} {loss} {drop.unit} ({low} to {high}, {drop.n} clips), more than {drop.max_drop:g}"
    both = (*audit.convolutions, *audit.products) if audit else ()
    if row.precision == "int8" and both and all(c.executed == "float" for c in both):
        return f"INT8 in name only: all {_counted(audit)} run in float"
    return None


def within_limit(drop: PairedDrop | None, spare: float = 0.0) -> bool:
    """Whether the loss itself is no more than allowed plus ``spare``, in its unit; a loss nobody measured is.

    A stricter question than the gate's, which ships what cannot be told from the limit. A verdict "fail" is
    beyond it in any case, as the whole interval is.
    """
    return drop is None or drop.points <= drop.max_drop + spare


def _counted(audit: Audit | None) -> str:
    """ "1 convolutions and 25 matrix products"; without those of which there are none."""
    assert audit
    counts = ((len(audit.convolutions), "convolutions"), (len(audit.products), "matrix products"))
    return " and ".join(f"{count} {what}" for count, what in counts if count)


def float_remainder(row: Measurement) -> str | None:
    """What an INT8 variant leaves in float, if that are more products than it has in INT8 at all; or None."""
    audit = row.audit
    if row.precision != "int8" or audit is None:
        return None
    left = [c for c in audit.products if c.executed == "float"]
    if len(left) <= audit.int8 + audit.int8_products:
        return None
    convolutions = f"{audit.int8}/{len(audit.convolutions)} convolutions"
    products = f"{audit.int8_products}/{len(audit.products)} matrix products"
    return f"{row.variant}: INT8 {convolutions}, {products}; {len(left)} run in float, first {left[0].node}"


def inconclusive_reason(row: Measurement) -> str | None:
    """Why a shipped variant that was not chosen does not run by itself: see ``doubtful_loss``."""
    lost = doubtful_loss(row)
    return lost and f"{row.variant} is in the bundle and does not run by itself: {lost}"


def doubtful_loss(row: Measurement) -> str | None:
    """What a variant that may be shipped lost above the gate, on too few clips to tell, or None.

    A loss that was counted was seen; one that the margins tell of is expected (``metrics.margins``).
    """
    drop = row.drop
    if not within_gate(row) or drop is None or within_limit(drop):
        return None
    loss = drop.figures()[0]
    what = "it is expected to lose" if drop.counted else "it lost"
    return f"{what} {loss} {drop.unit} on {drop.n} clips ({drop.interval()}), too few to tell"
