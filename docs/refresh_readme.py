"""Write the ranked table of a real run into README.md; run it when the cost model or the profiles have changed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
START, END = "<!-- table: written by docs/refresh_readme.py -->\n", "<!-- end of table -->\n"
COMMAND = "plan llama-3.1-70b --cluster dgx-h100 --nodes 8 --seq-len 8192 --global-batch 512"


def main() -> None:
    """Run the command and replace what stands between the two marks."""
    code = "from meshwright.cli.main import main; main()"
    words = [sys.executable, "-c", code, *shlex.split(COMMAND)]
    table = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{README.name} lacks the marks of the table")
    block = f"```\n$ meshwright {COMMAND}\n{table}```\n"
    README.write_text(before + START + block + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
