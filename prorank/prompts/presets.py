"""The prompts that have a name: their settings, where they differ from those of `Prompt`.

A trained model knows its prompt to the letter, so a preset that has been trained with never changes.
"""

from typing import Any

from .published import MXBAI_TASK, QWEN3_INSTRUCTION, QWEN3_SYSTEM, RANK_R1_SYSTEM, RANK_R1_USER, RERANK_R0

PRESETS: dict[str, dict[str, Any]] = {
    "prorank": {},
    # The query comes again after the document, where a causal model can read it in the document's light (arXiv 2402.15449 calls
    # such repeats echoes). Small models learn to rank far sooner from it, see docs/evidence.md.
    "echo": dict(
        user="{instruction}Query:\n{query}{close}\nDocument:\n{document}{close}\nQuery:\n{query}{close}\nRelevant?",
    ),
    # The document comes first and the query behind it, read in its light; a document's tokens are then the same for every query, so
    # that training reads a document once for several (see stage `score`).
    "document-first": dict(
        order="document-first",
        user="{instruction}Document:\n{document}{close}\nQuery:\n{query}{close}\nRelevant?",
    ),
    # Ids of mixedbread-ai/mxbai-rerank-{base,large}-v2 as their package joins them (mxbai-rerank 0.1.6).
    "mxbai": dict(
        system="",
        instruction_format="instruction: {instruction}\n",
        template=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "{instruction}query: {query}",
            "\n",
            "document: {document}",
            "\n",
            MXBAI_TASK,
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        max_length=8192,
        query_share=0.75,
        length_counts="content",
        escape_special_tokens=False,
    ),
    # Ids of Qwen/Qwen3-Reranker-{0.6B,4B,8B} as their model card joins them: instruction, query and document are one text there,
    # and no token reaches over the line break before "<Document>", so a query's documents share their prefix here, too.
    "qwen3-reranker": dict(
        system="",
        instruction_format="{instruction}",
        instruction=QWEN3_INSTRUCTION,
        template=(
            f"<|im_start|>system\n{QWEN3_SYSTEM}<|im_end|>\n<|im_start|>user\n",
            "<Instruct>: {instruction}\n<Query>: {query}\n",
            "<Document>: {document}",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        answers=("no", "yes"),
        max_length=8192,
    ),
    # One forward says of all documents of a window how likely each is the best.
    "setwise": dict(
        kind="setwise",
        system="Find the document that answers the query best. Answer with its label alone.",
        user='Query: {query}\n\n{documents}\n\nQuery: which document is the best for "{query}"?',
        max_length=2048,
        query_share=0.25,
    ),
    # The query and the label come again behind each document, where a causal model has read both texts: what a small model needs.
    "setwise-echo": dict(
        kind="setwise",
        system="Find the document that answers the query best. Answer with its label alone.",
        user="Query:\n{query}{close}\n{documents}\nQuery:\n{query}{close}\nBest?",
        document_format="Document [{label}]:\n{document}{close}\nQuery:\n{query}{close}\nRelevant? [{label}]",
        max_length=2048,
        query_share=0.4,
    ),
    # The order in writing, as RankGPT and its students give it; with method setwise its first label counts.
    "listwise": dict(
        kind="listwise",
        system="Order the documents by how well they answer the query. Answer with all labels, the best first: [2] > [1].",
        user="Query: {query}\n\n{documents}\n\nQuery: {query}\nOrder:",
        max_length=2048,
        query_share=0.25,
    ),
    # Think, then name the best of several (Rank-R1, arXiv 2503.06034), byte for byte.
    "rank-r1": dict(
        kind="thinking",
        system=RANK_R1_SYSTEM,
        user=RANK_R1_USER,
        max_length=4096,
        query_share=0.25,
        max_think_tokens=1024,
    ),  # fmt: skip
    # The system text is that of Rerank-R0's stage A, byte for byte.
    "rerank-r0": dict(
        kind="thinking",
        system=RERANK_R0,
        user="Query: {query}\n\nDocument: {document}",
        answers=("no", "yes"),
        max_length=1024,
    ),
}
