"""`python -m prorank`: the same as the command `prorank`, for launchers that start Python modules."""

from .cli.command_line import main

if __name__ == "__main__":
    main()
