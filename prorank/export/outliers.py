"""Linear layers whose inputs have outliers, which an int8 graph keeps in fp32.

Dynamic quantisation has one scale for all inputs of a layer. In many language models single tokens, the first above all, have
values hundreds of times those of others ("massive activations", Sun et al. 2024), mostly before `down_proj`. One scale for all
rounds the other tokens to a few steps, or to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

LARGEST = 16.0  # largest value over the median token's: an int8 step is then at least an eighth of a median token's largest value


@torch.inference_mode()
def outlier_layers(body: Any, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Return the names of a model's linear layers whose inputs have outliers in one of the prompts, in the order of the model.

    Args:
        body: body of a causal LM.
        prompts: ids of prompts.
    """
    ratios: dict[str, float] = {}

    def watch(name: str) -> Any:
        def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            largest = inputs[0].abs().flatten(0, -2).amax(-1)  # [tokens]
            ratio = float(largest.max() / largest.median().clamp(min=1e-30))
            ratios[name] = max(ratio, ratios.get(name, 0.0))

        return note

    linears = [(name, module) for name, module in body.named_modules() if isinstance(module, torch.nn.Linear)]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in linears]
    try:
        for ids in prompts:
            body(input_ids=torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, _ in linears if ratios.get(name, 0.0) > LARGEST]
