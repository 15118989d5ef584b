"""Run a language model over prompts: packing, attention, a CPU engine, int8, generation. It knows tensors and no checkpoints.

In reading order:

- `packing`: prompts to packs (a shared prefix and what follows it) to batches.
- `flat_attention`: a batch as one row of tokens without padding, for the layers of transformers.
- `cpu_engine`: the same forward as few large steps, from `layers`, `kernels`, `prefix_attention`, `shapes` and `int8`.
- `light_model`: Llama and Qwen2 in plain torch, for ranking without the model classes of transformers.
- `heads`: from hidden states to log-odds or logits.
- `sampling`, `generation`, `engine_decoder`, `transformers_decoder`: writing thoughts and answers.
- `auto`, `layer_speed`, `random_layer`: the dtype and whether to compile, by measurement.
"""
