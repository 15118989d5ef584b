"""Rerank-R0's path of `prorank train`: python prorank/trainer.py --config configs/rerank-r0/stage_a.yaml data=… out=…

It runs the command line; options and messages are the same.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the folder of a script first on the path; modules of the package would then shadow others of the same name.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from prorank.cli.command_line import main

    sys.argv[1:] = ["train", *(word.removeprefix("--config=") for word in sys.argv[1:] if word != "--config")]
    main()
