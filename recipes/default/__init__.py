"""How the default model was made: training texts, the check for overlap with test sets, and the tables of the model card."""
