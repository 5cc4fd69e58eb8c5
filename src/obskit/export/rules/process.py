"""What kills a process slowly, or again and again."""

from __future__ import annotations

from obskit.export.rules.model import Alert
from obskit.export.rules.series import Series, ours

START, MEMORY = "process_start_time_seconds{<job>}", "process_resident_memory_bytes{<job>}"
EXITED = 'obskit_worker_exits_total{<job>,reason="exited"}'


def alerts(series: Series) -> tuple[Alert, ...]:
    return (
        Alert(
            name="ObskitRestartLoop",
            # A start time that goes back is no restart: workers that do not share answer on one address in turn. Nor
            # are workers that are recycled in good order (max_requests): each says so, in a counter that outlives
            # them. Where that counter begins anew each time it is the whole service that ends in good order, and is
            # started again.
            expr=f"max by (job, instance) (changes({START}[15m]) > 2 unless resets({START}[15m]) > 0) "
            f"unless on (job, instance) (increase({EXITED}[15m]) > 2 unless resets({EXITED}[15m]) > 1) "
            f"{ours('job', 'instance')}",
            severity="critical",
            summary="{{ $labels.instance }} of {{ $labels.job }} restarts in a loop",
            description="{{ $value | humanize }} restarts in 15 minutes.",
            dashboard="runtime",
            by=("job", "instance"),
            keep_firing="15m",
        ),
        Alert(
            name="ObskitMemoryGrowth",
            # After two hours, because a process that warms up grows fast and stops; and only while it still grows,
            # because one big step that stays draws a steep line too.
            expr=f"max by (job, instance) (predict_linear({MEMORY}[2h], seconds(4h)) > 2 * {MEMORY} "
            f"and {MEMORY} > 1.05 * {MEMORY} offset 30m "
            f"and time() - {START} > seconds(2h)) {ours('job', 'instance')}",
            severity="warning",
            summary="Memory of {{ $labels.instance }} of {{ $labels.job }} grows without end",
            description="It would reach {{ $value | humanize1024 }}B in 4 hours, more than twice what it has now.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="30m",
        ),
        Alert(
            name="ObskitFdExhaustion",
            expr="max by (job, instance) (process_open_fds{<job>} / process_max_fds{<job>}) > 0.8 "
            + ours("job", "instance"),
            severity="warning",
            summary="{{ $labels.instance }} of {{ $labels.job }} runs out of file descriptors",
            description="{{ $value | humanizePercentage }} of them are in use; at 100 % no connection is accepted.",
            dashboard="runtime",
            by=("job", "instance"),
            hold="5m",
            keep_firing="5m",
        ),
    )
