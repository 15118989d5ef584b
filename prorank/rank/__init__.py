"""Ranking: documents, the strategies that score them, the methods of lists, and the parsing of generated answers."""
