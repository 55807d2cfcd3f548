"""Write ``docs/gain.svg``, the README's picture, from the committed run of the demo.

python -m benchmarks.picture
"""

import json
from pathlib import Path

from sidrank.demo.plots import gain_by_frequency

RESULTS = Path(__file__).parent / "results" / "demo.json"
PICTURE = Path(__file__).parent.parent / "docs" / "gain.svg"
# A file of its own needs what the report's page gives: names, size, colours.
FRAME = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' width="560" height="413" color="#1f2328"'
    ' style="background: white; font-family: sans-serif" '
)


def main() -> None:
    demo = json.loads(RESULTS.read_text())
    curves = demo["splits"]["cold_items"]["by_frequency"]
    PICTURE.write_text(gain_by_frequency(curves).replace("<svg ", FRAME, 1) + "\n")


if __name__ == "__main__":
    main()
