"""What a tokenizer raises when it is asked for codes before it has learned any."""

__all__ = ["NotFittedError"]


class NotFittedError(RuntimeError):
    """The tokenizer has no codebooks yet: call ``fit`` or ``load_state_dict`` first."""
