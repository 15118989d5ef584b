"""Entry point at Rerank-R0's path: python prorank/trainer.py --config configs/rerank-r0/stage_a.yaml data=… out=…

It is the same as `prorank train`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts the script's folder first on the path, where modules of this package would shadow others of the same name.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from prorank.cli.command_line import main

    sys.argv[1:] = ["train", *(word.removeprefix("--config=") for word in sys.argv[1:] if word != "--config")]
    main()
