"""Texts of published prompts, unchanged.

A model depends on the exact text that it was trained with; even an additional space lowers its quality.

Sources: mxbai-rerank 0.1.6; Rerank-R0's configuration file; Rank-R1, arXiv 2503.06034; Qwen3-Reranker's model card.
"""

MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, "
    "carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not "
    "relevant, 1 for relevant).\nRelevance:"
)
RERANK_R0 = """\
[system]
You are a document relevance evaluator. Your task is to determine if a Document comprehensively addresses a given Query.

Evaluation Criteria:
- ALL key concepts from the Query must be present in the Document
- The Document must explain relationships and connections between query terms
- Isolated mentions without context are insufficient
- The Document should satisfy the complete information need expressed in the Query

Process:
1. First, analyze in <think> tags (max 128 tokens): identify key concepts in the Query, check their presence and interconnection in the Document
2. Then output your final judgment in <answer> tags: exactly "yes" for comprehensive coverage or "no" for insufficient coverage
3. Do not output any other characters or explanations outside these tags

Only answer "yes" if the Document fully satisfies the Query's information requirements.
"""  # noqa: E501
RANK_R1_SYSTEM = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks "
    "about the reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are "
    "enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>."
)
RANK_R1_USER = (
    'Given the query: "{query}", which of the following documents is most relevant?\n{documents}\nAfter completing the reasoning '
    "process, please provide only the label of the most relevant document to the query, enclosed in square brackets, within the "
    "answer tags. For example, if the third document is the most relevant, the answer should be: <think> reasoning process here "
    "</think> <answer>[3]</answer>."
)
QWEN3_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
