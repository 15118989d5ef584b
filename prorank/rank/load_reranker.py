"""Load a checkpoint as a reranker: resolve its files, choose prompt and dtype, read the weights, make the strategy.

All options are checked before the weights are read, which takes most of the time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.light_loading import load_ranking_config, load_ranking_model
from ..checkpoints.loading import load_tokenizer, pick_device
from ..checkpoints.resolve import Resolved, prompt_of, resolve, trained_prompt
from ..engine.auto import check_compile, check_dtype, choose_dtype
from ..engine.cpu_engine import scoring_engine
from ..engine.generation import TextGenerator, make_generator, make_training_generator
from ..engine.layer_speed import DTYPES
from ..errors import ConfigError
from ..prompts.prompt import Prompt
from ..prompts.truncation import DEFAULT_TRUNCATION, Truncation, truncation_of
from .base_reranker import LoadedReranker
from .lazy_compile import GpuLazyCompile, LazyCompile
from .list_strategy import ListStrategy
from .methods import ListMethod, choose_prompt, make_method
from .model_runtime import ModelRuntime
from .pointwise import PointwiseStrategy
from .strategy import RankingStrategy
from .thinking import ThinkingStrategy
from .thinking_head import ThinkingHeadStrategy
from .validation import whole_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")


@dataclass(frozen=True)
class LoadOptions:
    """Arguments of `Reranker` besides model and method, see there.

    Raises:
        ConfigError: max_length, max_think_tokens, samples or think_top is not a whole number of at least 1.
    """

    device: str | None = None
    dtype: str = "auto"
    max_length: int | None = None
    prompt: Any = None
    trust_remote_code: bool = False
    compile: bool | str = "auto"
    think: bool = True
    samples: int = 1
    max_think_tokens: int | None = None
    base: str | Path | None = None
    long_documents: str = "auto"
    think_top: int | None = None

    def __post_init__(self) -> None:
        own = "omit it to use the checkpoint's own"
        for name, remedy in (("max_length", own), ("max_think_tokens", own), ("think_top", "omit it to think about all documents")):
            object.__setattr__(self, name, whole_number(getattr(self, name), name, remedy, ConfigError))
        object.__setattr__(self, "samples", whole_number(self.samples, "samples", raised=ConfigError) or 1)


def load_reranker(
    model: str | Path, options: LoadOptions | None = None, method: str = "pointwise", method_options: dict[str, Any] | None = None
) -> LoadedReranker:
    """Load a checkpoint and make the strategy that ranks with it.

    Args:
        model: name, folder, file or hub id, see `Reranker`.
        options: see `LoadOptions`.
        method: "pointwise", "setwise" or "listwise".
        method_options: fields of `Setwise` or `Listwise`.

    Raises:
        ModelError, PromptError, ConfigError: see `Reranker`.
    """
    options = options or LoadOptions()
    check_compile(options.compile)
    device = pick_device(options.device)
    check_dtype(options.dtype, device)
    list_method = make_method(method, method_options or {})
    source = resolve(model, options.base, options.trust_remote_code)
    prompt = _prompt(str(model), source, options, list_method)
    think = _check_thinking(str(model), prompt, options)
    truncation = truncation_of(options.long_documents, can_chunk=not (list_method or think))
    tokenizer = load_tokenizer(source)
    (prompt.bind_list if list_method else prompt.bind)(tokenizer)  # raises errors before the weights are loaded
    config = load_ranking_config(source, device)
    dtype = choose_dtype(options.dtype, device, config)
    weights = load_ranking_model(source, config, DTYPES[dtype.value], device, tokenizer)
    runtime = ModelRuntime(weights, tokenizer, scoring_engine(weights, options.compile is True, options.dtype == "int8"))
    log.debug("%s: dtype %s", model, dtype)
    generator = make_generator(weights, runtime.engine) if think else None
    strategy = make_strategy(runtime, prompt, list_method, generator, options.samples, truncation, options.think_top)
    lazy_compile: LazyCompile | GpuLazyCompile | None = None
    if options.compile == "auto" and runtime.engine and isinstance(strategy, PointwiseStrategy):
        longest = strategy.encoder.longest
        if device.type == "cpu":
            lazy_compile = LazyCompile(str(model), runtime.engine, config, dtype.value, longest)
        else:
            lazy_compile = GpuLazyCompile(str(model), runtime.engine, longest, runtime.cost)
    return LoadedReranker(str(model), runtime, strategy, source, dtype, lazy_compile)


def in_memory_reranker(
    model: PreTrainedModel, tokenizer: Any, prompt: Prompt, name: str, think: bool, method: ListMethod | None, long_documents: str
) -> LoadedReranker:
    """Make a reranker from a model in memory, see `Reranker.of`.

    Args:
        model, tokenizer, prompt: the model, its tokenizer and its prompt.
        name: name of the model in messages.
        think: generate thoughts, with a copy of the current weights.
        method: a method of lists; None for pointwise ranking.
        long_documents: see `Reranker`.
    """
    truncation = truncation_of(long_documents, can_chunk=not (method or think))
    runtime = ModelRuntime(model, tokenizer)
    generator = make_training_generator(model, False, False) if think else None
    return LoadedReranker(name, runtime, make_strategy(runtime, prompt, method, generator, truncation=truncation))


def make_strategy(
    runtime: ModelRuntime, prompt: Prompt, method: ListMethod | None = None, generator: TextGenerator | None = None,
    samples: int = 1, truncation: Truncation = DEFAULT_TRUNCATION, think_top: int | None = None,
) -> RankingStrategy:  # fmt: skip
    """Make the strategy that ranks with a prompt.

    Args:
        runtime: the model.
        prompt: the prompt.
        method: a method of lists, for a ListStrategy.
        generator: generates thoughts, for a ThinkingStrategy. Without method and generator, the strategy is pointwise.
        samples: number of thoughts per document.
        truncation: how a PointwiseStrategy reads documents that do not fit.
        think_top: number of documents per query that are thought about, for a ThinkingHeadStrategy; None for all.
    """
    if method:
        return ListStrategy(runtime, prompt, method)
    if generator:
        thinking = ThinkingStrategy(runtime, prompt, generator, samples)
        return ThinkingHeadStrategy(thinking, think_top) if think_top else thinking
    return PointwiseStrategy(runtime, prompt, truncation)


def _prompt(name: str, source: Resolved, options: LoadOptions, method: ListMethod | None) -> Prompt:
    """Return the requested prompt, or the checkpoint's own, with the requested limits."""
    default = Prompt.of(options.prompt) if options.prompt else prompt_of(source, "setwise" if method else None)
    prompt = choose_prompt(method, options.prompt, default, name, trained_prompt(source))
    if options.max_length is not None:
        prompt = Prompt.of(prompt, max_length=options.max_length)
    if options.max_think_tokens is not None:
        prompt = Prompt.of(prompt, max_think_tokens=options.max_think_tokens)
    return prompt


def _check_thinking(name: str, prompt: Prompt, options: LoadOptions) -> bool:
    """Return whether the model thinks about each document.

    Raises:
        ConfigError: samples, max_think_tokens or think_top for a prompt without thoughts of single documents.
    """
    thinks = options.think and prompt.kind == "thinking" and not prompt.lists
    thinks_of_lists = prompt.lists and prompt.kind == "thinking"  # one thought per prompt, and no log-odds to average
    if not thinks and (options.samples != 1 or (options.max_think_tokens is not None and not thinks_of_lists)):
        how = "shows several documents" if thinks_of_lists else "answers at once"
        raise ConfigError(f"samples and max_think_tokens are for thoughts about single documents, but {name} {how}")
    if options.think_top and not thinks:
        how = "compares documents" if prompt.lists else "answers at once"
        raise ConfigError(f"think_top is for models that think about single documents, but {name} {how}")
    return thinks
