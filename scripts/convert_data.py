"""Rerank-R0's path of `prorank import-logs`: python scripts/convert_data.py IN.jsonl OUT.jsonl --max-think-chars N

It runs the command line; options and messages are the same.
"""

import sys

from prorank.cli.command_line import main

if __name__ == "__main__":
    sys.argv[1:1] = ["import-logs"]
    main()
