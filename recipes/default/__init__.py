"""How the default model was made: its training texts, their check against the test sets, and its data card's counts."""
