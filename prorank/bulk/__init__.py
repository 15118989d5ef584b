"""Score pairs in bulk: files in, a folder of shards out, on this machine or on a Ray cluster."""

from .backends import LocalBackend
from .bulk_job import BulkResult, score_pairs
from .pair_columns import PairColumns
from .ray_backend import RayBackend

__all__ = ["BulkResult", "LocalBackend", "PairColumns", "RayBackend", "score_pairs"]
