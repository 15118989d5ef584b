"""Rerank-R0's own door to `prorank train`: python prorank/trainer.py --config configs/rerank-r0/stage_a.yaml data=… out=…

Options and messages are those of the command, whose code runs.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, its folder comes first on the path, where modules of the package would stand in for others of their names.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from prorank.cli.command_line import main

    sys.argv[1:] = ["train", *(word.removeprefix("--config=") for word in sys.argv[1:] if word != "--config")]
    main()
