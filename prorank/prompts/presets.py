"""Presets: named prompts, as settings that differ from the defaults of `Prompt`.

A model depends on the exact text of its prompt, so a preset never changes once a model was trained with it.
"""

from typing import Any

from .published import MXBAI_TASK, QWEN3_INSTRUCTION, QWEN3_SYSTEM, RANK_R1_SYSTEM, RANK_R1_USER, RERANK_R0

PRESETS: dict[str, dict[str, Any]] = {
    "prorank": {},
    # The same in Chinese. The answers stay digits, because a character may be several tokens.
    "prorank-zh": dict(
        system="判断文档是否与查询相关：相关回答 1，不相关回答 0。",
        instruction_format="要求：{open}{instruction}{close}\n",
        user="{instruction}查询：{open}{query}{close}\n文档：{open}{document}{close}\n相关吗？",
    ),
    # The query is repeated after the document, where a causal model can attend to the document (arXiv 2402.15449 calls this an
    # echo). Small models learn to rank much faster with it, see docs/evidence.md.
    "echo": dict(
        user="{instruction}Query:\n{query}{close}\nDocument:\n{document}{close}\nQuery:\n{query}{close}\nRelevant?",
    ),
    # The document comes before the query, so its tokens are the same for every query, and training computes them once for several
    # queries (see stage `score`).
    "document-first": dict(
        order="document-first",
        user="{instruction}Document:\n{document}{close}\nQuery:\n{query}{close}\nRelevant?",
    ),
    # No chat format and few words, so it is the cheapest prompt, and a small model learns from it soonest (see docs/evidence.md).
    "plain": dict(order="document-first", system="", template="Document: {document}\nQuery: {query}\nRelevant:"),
    # Same ids for mixedbread-ai/mxbai-rerank-{base,large}-v2 as in their package (mxbai-rerank 0.1.6).
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
    # Same ids for Qwen/Qwen3-Reranker-{0.6B,4B,8B} as in their model card, which tokenises instruction, query and document as one
    # text. No token spans the line break before "<Document>", so splitting there keeps the ids and lets documents share a prefix.
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
    # One forward pass gives the probability of each document of a window to be the best.
    "setwise": dict(
        kind="setwise",
        system="Find the document that answers the query best. Answer with its label alone.",
        user='Query: {query}\n\n{documents}\n\nQuery: which document is the best for "{query}"?',
        max_length=2048,
        query_share=0.25,
    ),
    # Query and label are repeated after each document, where a causal model has read both texts. Small models need this.
    "setwise-echo": dict(
        kind="setwise",
        system="Find the document that answers the query best. Answer with its label alone.",
        user="Query:\n{query}{close}\n{documents}\nQuery:\n{query}{close}\nBest?",
        document_format="Document [{label}]:\n{document}{close}\nQuery:\n{query}{close}\nRelevant? [{label}]",
        max_length=2048,
        query_share=0.4,
    ),
    # The answer is a written ranking, as in RankGPT and models distilled from it. With method setwise its first label counts.
    "listwise": dict(
        kind="listwise",
        system="Order the documents by how well they answer the query. Answer with all labels, the best first: [2] > [1].",
        user="Query: {query}\n\n{documents}\n\nQuery: {query}\nOrder:",
        max_length=2048,
        query_share=0.25,
    ),
    # Think, then name the best of several documents (Rank-R1, arXiv 2503.06034); the texts are unchanged.
    "rank-r1": dict(
        kind="thinking",
        system=RANK_R1_SYSTEM,
        user=RANK_R1_USER,
        max_length=4096,
        query_share=0.25,
        max_think_tokens=1024,
    ),  # fmt: skip
    # The system text is that of Rerank-R0's stage A, unchanged.
    "rerank-r0": dict(
        kind="thinking",
        system=RERANK_R0,
        user="Query: {query}\n\nDocument: {document}",
        answers=("no", "yes"),
        max_length=1024,
    ),
}
