"""Build the demonstration model from our own text: `python data/make_demo.py [OUT_DIR]`.

A tiny Gemma and its tokenizer learn to finish the built-in prompts. The texts they see are the sample's training
items, and texts composed of hand-written phrases. Invariant: the held-out items (the sample's test split) are never
read, and on one machine the same sources give the same files.
"""

import json
import random
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerFast

from pipeline.bundled import bundled_path, sample_path
from pipeline.prompts import AG_NEWS, BUILT_IN

SEED = 20
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, as Gemma has them
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
VOCAB_SIZE = 2560
CONTEXT_TOKENS = 1024
NUM_STEPS = 600
BATCH_ITEMS = 48
LEARNING_RATE = 3e-3
# How often each prompt is practised; `answer` is the default prompt, so it gets the most.
PROMPT_SHARES = {"answer": 6, "detailed": 2, "described": 1, "topic-science": 2, "topic": 2}
CONTENT_FREE = ("", "N/A", "[MASK]")
# A label's first token decides between labels; the text only has to be plausible, and a quarter of it will do for that.
FIRST_WEIGHT, LABEL_WEIGHT, TEXT_WEIGHT, TEXT_SHARE = 1.0, 0.2, 0.06, 0.25


@dataclass(frozen=True, slots=True)
class Sources:
    """Our own text: training items and phrases by class id, and glue words that belong to no class."""

    items: tuple[tuple[str, ...], ...]
    phrases: tuple[tuple[str, ...], ...]
    glue: tuple[str, ...]


def build_demo(out_dir: Path, *, num_steps: int = NUM_STEPS) -> None:
    """Train tokenizer and model and write both to `out_dir` (config, safetensors in float32, tokenizer.json)."""
    sources = read_sources()
    tokenizer = train_tokenizer(sources)
    model = train_model(tokenizer, sources, num_steps)
    model.save_pretrained(out_dir)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it unannotated
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT_TOKENS,
        **{f"{token.strip('<>')}_token": token for token in SPECIAL},
    )
    wrapped.save_pretrained(out_dir)


def read_sources() -> Sources:
    """The sample's training split and its phrases."""
    rows = [json.loads(line) for line in sample_path("train").read_text(encoding="utf-8").splitlines()]
    tables = tomllib.loads(bundled_path("phrases.toml").read_text(encoding="utf-8"))

    def split(text: str) -> tuple[str, ...]:
        return tuple(phrase for part in text.replace("\n", " ").split(", ") if (phrase := part.strip(" ,")))

    return Sources(
        items=tuple(tuple(row["text"] for row in rows if row["label"] == i) for i in range(len(AG_NEWS))),
        phrases=tuple(split(tables[name]["phrases"]) for name in AG_NEWS),
        glue=split(tables["glue"]),
    )


def compose_items(sources: Sources, rng: random.Random) -> Iterator[tuple[str, int]]:
    """Texts and their class ids without end: training items, composed ones, and now and then a content-free text."""
    while True:
        label = rng.randrange(len(AG_NEWS))
        kind = rng.random()
        if kind < 0.02:
            # Any label goes with no content, so that the priors of the calibrated rules come out nearly even.
            yield rng.choice(CONTENT_FREE), label
        elif kind < 0.25:
            words = rng.choice(sources.items[label]).split(" ")
            yield " ".join(word for word in words if rng.random() > 0.2), label
        else:
            headline = compose_sentence(sources, label, rng, rng.randint(2, 3)).title()
            body = [compose_sentence(sources, label, rng, rng.randint(2, 5)) for _ in range(rng.randint(1, 2))]
            yield " ".join([headline, *(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in body)]), label


def compose_sentence(sources: Sources, label: int, rng: random.Random, num_phrases: int) -> str:
    """`num_phrases` phrases, most of them of the class `label`, among glue words."""
    words: list[str] = []
    for _ in range(num_phrases):
        words += rng.choices(sources.glue, k=rng.randint(0, 3))
        # A stray phrase of any class teaches the model to weigh all of a text.
        phrase = rng.choice(sources.phrases[rng.randrange(len(AG_NEWS)) if rng.random() < 0.15 else label])
        words.append(rng.choice(phrase.split(" ")) if rng.random() < 0.15 else phrase)
    return " ".join(words)


def train_tokenizer(sources: Sources) -> Tokenizer:
    """A BPE tokenizer as Gemma's: spaces as part of the words, single digits, bytes for all it does not know."""
    tokenizer = bare_tokenizer(models.BPE())
    items = islice(compose_items(sources, random.Random(SEED)), 8000)
    # Prompts and label words as they are cut: a label that is encoded alone has no space before it.
    prompts = [text for p in BUILT_IN.values() for label in p.labels for text in (p.head, p.tail, label.words)]
    texts = [*(text for text, _ in items), *prompts * 50]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE - len(SPECIAL) - len(BYTES), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return assemble_tokenizer(
        sorted(learnt["vocab"], key=learnt["vocab"].__getitem__), [tuple(pair) for pair in learnt["merges"]]
    )


def assemble_tokenizer(pieces: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """Gemma's order of the vocabulary: special tokens, bytes, pieces. BOS is put before every text."""
    vocab = {token: i for i, token in enumerate((*SPECIAL, *BYTES, *pieces))}
    tokenizer = bare_tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer


def bare_tokenizer(bpe: models.BPE) -> Tokenizer:
    """How text is cut before BPE and put together again after it: each word keeps the space before it."""
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁\W\d]+|\d|▁|[^▁\w]|\n"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def cut_finer(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary with only the first third of the merges: words seen in pieces, as a held-out word will be."""
    model = json.loads(tokenizer.to_str())["model"]
    pieces = list(model["vocab"])[len(SPECIAL) + len(BYTES) :]
    return assemble_tokenizer(pieces, [tuple(pair) for pair in model["merges"][: len(model["merges"]) // 3]])


def train_model(tokenizer: Tokenizer, sources: Sources, num_steps: int) -> GemmaForCausalLM:
    """A Gemma trained as a language model over whole prompts with their right label words."""
    torch.manual_seed(SEED)
    rng = random.Random(SEED + 1)
    model = GemmaForCausalLM(make_config(tokenizer.get_vocab_size()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps + 1, pct_start=0.1)
    items = compose_items(sources, rng)
    finer = cut_finer(tokenizer)
    model.train()
    for step in range(num_steps):
        ids, weights = make_batch(islice(items, BATCH_ITEMS), tokenizer, finer, rng)
        counted = weights[:, 1:] > 0  # (batch, tokens - 1)
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[counted]  # (counted, hidden)
        losses = cross_entropy(model.lm_head(hidden), ids[:, 1:][counted], reduction="none")  # (counted,)
        loss = (losses * weights[:, 1:][counted]).sum() / weights[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == num_steps - 1:
            print(f"step {step:4d}  loss {loss.item():.3f}", file=sys.stderr)
    return model


def make_config(vocab_size: int) -> GemmaConfig:
    """The smallest Gemma that does the job: two layers, one key-value head as Gemma 2B has it."""
    return GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=CONTEXT_TOKENS,
        dtype="float32",
    )


def make_batch(
    items: Iterator[tuple[str, int]], tokenizer: Tokenizer, finer: Tokenizer, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Token ids and loss weights, each (batch, tokens), padded on the right with <pad> of weight 0."""
    names, shares = list(PROMPT_SHARES), list(PROMPT_SHARES.values())
    ids, weights = [], []
    for text, label in items:
        prompt = BUILT_IN[rng.choices(names, shares)[0]]
        before = (finer if rng.random() < 0.3 else tokenizer).encode(prompt.template.replace("{text}", text)).ids
        # Joint words start with a space, where this tokenizer cuts anyway: encoded alone they give the same tokens.
        words = tokenizer.encode(prompt.labels[label].words, add_special_tokens=False).ids
        row = [*before, *words, SPECIAL.index("<eos>")]
        kept = [TEXT_WEIGHT if rng.random() < TEXT_SHARE else 0.0 for _ in before]
        kept += [FIRST_WEIGHT] + [LABEL_WEIGHT] * (len(words) - 1) + [TEXT_WEIGHT]
        ids.append(torch.tensor(row))
        weights.append(torch.tensor(kept))
    return pad_sequence(ids, batch_first=True), pad_sequence(weights, batch_first=True)


def main() -> None:
    """Build into the directory given, or over the tracked model."""
    torch.set_num_threads(1)  # the order of sums, and with it the weights, depends on the number of threads
    out_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else sample_path("train").parent / "model"
    build_demo(out_dir)
    print(f"wrote the demonstration model to {out_dir}")


if __name__ == "__main__":
    main()
