"""Bottom full, top sliding, one row and one target at a time; nothing of ours but the weights."""

from tests.layers import reference_decoder as decoder


def target_state(weights, static, behaviours, target, *, num_heads, full_layers, windows):
    """The target after all layers. The history holds real behaviours only.

    The static tokens stay in the stream to the end; above the full layers nobody sees them.
    """
    sep = weights["separators"]
    tokens = [*static, sep[0], *behaviours, sep[1], target]
    prefix, n = len(static) + 1, len(behaviours)
    positions = [0] * prefix + list(range(1, n + 1)) + [n + 1, n + 1]
    for layer, window in enumerate([None] * full_layers + list(windows)):

        def visible(i, j, window=window):
            if window is None:
                return j <= i
            return j >= prefix and 0 <= i - j < window

        w = decoder.within(weights, f"blocks.{layer}")
        tokens = decoder.block(tokens, positions, w, num_heads, visible)
    return decoder.rms_norm(tokens[-1], weights["norm.weight"])
