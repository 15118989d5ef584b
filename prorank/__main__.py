"""`python -m prorank`: the command line, where several processes are started by a launcher.

It is the same as the command `prorank`.
"""

from .cli.command_line import main

if __name__ == "__main__":
    main()
