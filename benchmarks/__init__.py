"""Speed against named peers, and the claims ledger: slow evidence, committed as JSON."""
