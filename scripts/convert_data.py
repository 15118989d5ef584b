"""Rerank-R0's own door to `prorank convert`: python scripts/convert_data.py IN.jsonl OUT.jsonl --max-think-chars N

Options and messages are those of the command, whose code runs.
"""

import sys

from prorank.cli.command_line import main

if __name__ == "__main__":
    sys.argv[1:1] = ["convert"]
    main()
