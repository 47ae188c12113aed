"""A model class of lm-evaluation-harness over this project's scorer, registered there as `labelscore`.

Invariant: what it answers is what the harness' own class for models of transformers answers, to the precision of the
model's dtype, in the order of the requests; each distinct pair of context and continuation is scored once.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import configure_pad_token, resolve_max_length
from tqdm import tqdm

from pipeline.errors import InputError, RunError
from pipeline.harness.arguments import LOGGER, NAME, check_arguments, find_model
from pipeline.harness.chat import make_render
from pipeline.harness.pairs import Group, PairEncoder
from pipeline.reading.model import check_vocabulary, count_parameters, load_tokenizer
from pipeline.scoring.scorer import NonFiniteScore, ScoredBatch
from pipeline.scoring.tokens import TokenSequences
from pipeline.shard import load_to_score, make_scorer
from pipeline.wording import show

# So many contexts are encoded and scored at a time, in alphabetical order: neighbours begin alike. Measured on 8,000
# made-up items: of what they share, slices of this size forward at most 0.3 % of all tokens again.
_SLICE = 2048
_TEXTS = 128  # so many whole texts are scored at a time

_logger = logging.getLogger(LOGGER)

Answer = tuple[float, bool]
Encoded = tuple[tuple[str, str] | None, Sequence[int], Sequence[int]]


@register_model(NAME)
class LabelscoreLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """Scores requests over shared tries; generates through the harness' own class, where its needs are installed.

    The arguments are the harness' `model_args`, and mean what they mean for its class `hf`; `batch_tokens` bounds a
    batch. Raises InputError for other arguments, and where the model cannot be had or used.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        batch_tokens: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,  # for its `auto`
        **unknown: object,
    ) -> None:
        super().__init__()
        check_arguments(pretrained, {"max_length": max_length, "batch_tokens": batch_tokens}, unknown)
        self.pretrained, self.revision = str(pretrained), revision or "main"
        self.ref = find_model(self.pretrained, self.revision, dtype, device, trust_remote_code)
        own = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
        self.tokenizer = load_tokenizer(self.ref, **own)
        self.model = load_to_score(self.ref)
        check_vocabulary(self.tokenizer, self.model, self.ref.name)
        self._device = self.model.device
        self.tokenizer = configure_pad_token(self.tokenizer, model_config=self.model.config)
        self.add_bos_token, self.custom_prefix_token_id, self._max_length = add_bos_token, prefix_token_id, max_length
        self.batch_size = batch_size or 1
        if str(self.batch_size) != "1":
            _logger.info("batches are filled by tokens (model_args batch_tokens=N); --batch_size is for generation")
        self._encoder = PairEncoder(
            self.tokenizer,
            prefix_token=self.prefix_token_id,
            max_length=self.max_length,
            add_special_tokens=add_bos_token,
        )
        self._scorer = make_scorer(self.model, self.ref, batch_tokens=batch_tokens, greedy=True)
        self._told: set[str] = set()
        self._generator: Any = None
        self._max_batch_size = max_batch_size

    # --- what the harness asks about a model ------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> Any:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context: the one that was asked for, else BOS, else EOS."""
        known = (self.custom_prefix_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        found = next((token for token in known if token is not None), None)
        if found is None:
            raise InputError(f"{self.ref.name}: the tokenizer has neither BOS nor EOS; give prefix_token_id=N")
        if not 0 <= int(found) < len(self.tokenizer):
            raise InputError(f"prefix_token_id={found}: the tokenizer of {self.ref.name} has no such token")
        return int(found)

    @property
    def max_length(self) -> int:
        return int(self._max_length or resolve_max_length(self.model.config, self.tokenizer))

    @property
    def tokenizer_name(self) -> str:
        return self.pretrained.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        if add_special_tokens is None:
            return list(self._encoder.encode_text(string))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The messages as one string. Raises InputError where the tokenizer has no template."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"{self.ref.name}: its tokenizer has no chat template; leave out --apply_chat_template")
        return make_render(self.tokenizer)(chat_history, add_generation_prompt)

    def get_model_info(self) -> dict[str, object]:
        """What the results file says of the model."""
        is_local, is_fp8 = self.ref.revision.startswith("sha256:"), self.ref.dtype == "fp8"
        return {
            "model_num_parameters": count_parameters(self.ref) if is_fp8 else self.model.num_parameters(),
            "model_dtype": self.ref.dtype if is_fp8 else self.model.dtype,
            "model_revision": self.revision,
            "model_sha": "" if is_local else self.ref.revision,
        }

    # --- log-likelihoods --------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """(log-likelihood, whether it would be generated) of each request's continuation after its context."""
        places: dict[tuple[str, str], list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request.args, []).append(place)
        groups = sorted(_group(requests, [first for first, *_ in places.values()]), key=lambda group: group.context)
        answers: list[Answer] = [(0.0, False)] * len(requests)
        with _progress(len(requests), disable_tqdm) as bar:
            for some, items in self._encode(groups):
                for index, found in self._score(items, some):
                    group = some[index]
                    for continuation, answer in zip(group.continuations, found, strict=True):
                        pair = (group.context, continuation)
                        self.cache_hook.add_partial("loglikelihood", pair, answer)
                        for place in places[pair]:
                            answers[place] = answer
                        bar.update(len(places[pair]))
        return answers

    def _encode(self, groups: Sequence[Group]) -> Iterator[tuple[Sequence[Group], list[TokenSequences]]]:
        """Slice by slice; the next one is encoded while one is scored."""
        slices = [groups[first : first + _SLICE] for first in range(0, len(groups), _SLICE)] or [groups]
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as encoding:
            ahead = encoding.submit(self._encoder.encode, slices[0])
            for some, following in zip(slices, [*slices[1:], []], strict=True):
                items = ahead.result()
                ahead = encoding.submit(self._encoder.encode, following)
                yield some, items

    def _loglikelihood_tokens(self, requests: list[Encoded], disable_tqdm: bool = False, **_: object) -> list[Answer]:
        """The same for pairs that are encoded already."""
        items = [self._encoder.cut(tuple(context), [tuple(scored)]) for _, context, scored in requests]
        answers: list[Answer] = [(0.0, False)] * len(requests)
        with _progress(len(requests), disable_tqdm) as bar:
            for index, (answer,) in self._score(items):
                answers[index] = answer
                bar.update()
        return answers

    def _tell_way(self) -> None:
        """Say once what there is to know of how the scores were made."""
        reason = self._scorer.path_reason
        for line in (reason and f"one row for each continuation: {reason}", self._scorer.remark):
            if line and line not in self._told:
                _logger.warning("%s", line)
                self._told.add(line)

    def _score(
        self, items: Sequence[TokenSequences], groups: Sequence[Group] = ()
    ) -> Iterator[tuple[int, list[Answer]]]:
        """Each item's place with the answers for its branches, longest items first."""
        if num_cut := sum(item.truncated for item in items):
            _logger.warning("%d contexts are longer than the model takes (%d tokens): cut", num_cut, self.max_length)
        try:
            for batch in self._scorer.score(items):
                yield from _answers(batch, items)
            self._tell_way()
        except NonFiniteScore as error:
            where = ""
            if groups:
                group = groups[error.index]
                where = f" for {show(group.continuations[error.label_index])} after {show(group.context[-60:])}"
            raise RunError(
                f"the model {self.ref.name} gave a score that is not a finite number{where} ({self.ref.dtype}); try "
                "model_args dtype=float32"
            ) from None

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each request's whole text, in windows of the model's length that do not overlap."""
        totals = [0.0] * len(requests)
        with _progress(len(requests), disable_tqdm) as bar:
            for first in range(0, len(requests), _TEXTS):
                places = range(first, min(first + _TEXTS, len(requests)))
                windows = [(place, window) for place in places for window in self._windows(requests[place].args[0])]
                found = self._loglikelihood_tokens([(None, *window) for _, window in windows], disable_tqdm=True)
                for (place, _), (score, _) in zip(windows, found, strict=True):
                    totals[place] += score
                for place in places:
                    self.cache_hook.add_partial("loglikelihood_rolling", requests[place].args, totals[place])
                bar.update(len(places))
        return totals

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        """The harness' own: what stands before, and what is scored."""
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        yield from map(utils.make_disjoint_window, windows)

    # --- generation -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Text generated by the harness' own class over the same model. Raises InputError where it cannot be had."""
        if self._generator is None:
            self._generator = self._make_generator()
        self._generator.set_cache_hook(self.cache_hook)
        found: list[str] = self._generator.generate_until(requests, disable_tqdm=disable_tqdm)
        return found

    def _make_generator(self) -> Any:
        try:
            from lm_eval.models.huggingface import HFLM
        except ImportError as error:
            raise InputError(
                f"tasks that generate text need the harness' own class of models ({error}): pip install 'lm-eval[hf]'"
            ) from None
        return HFLM(
            self.model,
            tokenizer=self.tokenizer,
            max_length=self._max_length,
            batch_size=self.batch_size,
            max_batch_size=self._max_batch_size or 64,
            add_bos_token=self.add_bos_token,
            prefix_token_id=self.custom_prefix_token_id,
        )


def _group(requests: Sequence[Instance], places: Sequence[int]) -> Iterator[Group]:
    """Requests of one document that follow each other with one context."""

    def key(place: int) -> tuple[str, str | None, int | None]:
        request = requests[place]
        return request.args[0], request.task_name, request.doc_id

    for (context, _, _), same in groupby(places, key):
        yield Group(context, tuple(requests[place].args[1] for place in same))


def _answers(batch: ScoredBatch, items: Sequence[TokenSequences]) -> Iterator[tuple[int, list[Answer]]]:
    assert batch.is_greedy is not None
    for index, logprobs, greedy in zip(batch.indices, batch.logprob.tolist(), batch.is_greedy.tolist(), strict=True):
        num = len(items[index].branches)
        yield index, list(zip(logprobs[:num], greedy[:num], strict=True))


def _progress(total: int, disable: bool) -> Any:
    return tqdm(total=total, desc="Running loglikelihood requests", disable=disable)
