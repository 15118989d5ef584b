"""Run a language model over prompts: packing, attention, an engine, int8, generation. No module here knows checkpoints.

In reading order:

- `packing`: from prompts to packs (a shared prefix and the rest of each prompt) to batches.
- `sequences`: positions of prompts in a row of tokens without padding.
- `flat_attention`: attention over such a row for the layers of transformers.
- `cpu_engine`: the same forward pass in few large steps, built from `layers`, `kernels`, `shapes` and `int8`, with the attention
  of a CPU (`prefix_attention`) or of a GPU (`sequence_attention`).
- `light_model`: Llama and Qwen2 in plain torch, for ranking without the model classes of transformers.
- `heads`: from hidden states to log-odds or logits.
- `sampling`, `generation`, `engine_decoder`, `transformers_decoder`: generation of thoughts and answers.
- `key_values`, `cached_attention`, `key_value_models`: keys and values that are computed once and attended to later.
- `auto`, `layer_speed`, `random_layer`: choose the dtype and whether to compile, by measurement.
"""
