"""The command line: one file per group of verbs, assembled in `command_line`."""
