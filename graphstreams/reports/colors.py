"""The colors of streams, the same in every picture."""

# Light enough for black text; told apart by people with a red-green deficiency too.
STREAM_COLORS = ("#9ecae1", "#fdae6b", "#a1d99b", "#bcbddc", "#fdd0e2", "#d9d9a3", "#9edad5", "#d0b49f")
CRITICAL = "#d62728"


def stream_color(stream: int) -> str:
    """Return the color of a stream; they repeat after eight."""
    return STREAM_COLORS[stream % len(STREAM_COLORS)]
