"""Reranks the response of OpenSearch or Elasticsearch: JSON in, JSON out.

    curl -s "localhost:9200/docs/_search?q=folder" > response.json
    python examples/search_engines/elasticsearch_response.py "delete a folder" title text < response.json

After the query come the fields of `_source` to read. With a client library, give `client.search(...)` to `rerank_response`.
"""

import json
import sys

from prorank import Reranker
from prorank.errors import ProRankError
from prorank.integrations.opensearch import rerank_response


def main(query: str, fields: list[str], text: str, reranker: Reranker) -> str:
    """Return the JSON of a response with its hits in the new order."""
    return json.dumps(rerank_response(json.loads(text), query, reranker, fields), ensure_ascii=False, indent=1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} QUERY FIELD [FIELD ...] < response.json")
    try:
        print(main(sys.argv[1], sys.argv[2:], sys.stdin.read(), Reranker()))
    except (ProRankError, json.JSONDecodeError) as error:
        sys.exit(f"error: {error}")
