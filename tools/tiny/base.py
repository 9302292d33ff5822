"""The tokenizer and the small base model: training them, and measuring what the model does."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from .problems import EOS, FORMED, TEMPLATE, Segment

CONTEXT = 1024
MAX_RESPONSE = 96
IGNORED = -100  # the label that the loss skips
# Qwen2's own rule for cutting text before BPE: each digit stands alone.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORKED = re.compile(r"\d+[+-]\d+=\d+\.")


def train_tokenizer(texts: Iterator[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of exactly `size` entries; the end of text is its only special token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != size:
        raise ValueError(f"the text gave {bpe.get_vocab_size()} tokens, not {size}")
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """An untrained Qwen2 model whose layers, heads and sizes all divide by two."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        initializer_range=0.06,  # Qwen2's 0.02 is for wide models: at this width sums are learnt far later
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.do_sample = True
    return model


Example = tuple[list[int], list[int]]


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[Segment]]) -> list[Example]:
    """Token ids and labels of each document, its segments encoded apart as the RL loop will do."""
    flat = [text for document in documents for text, _ in document]
    pieces = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    examples: list[Example] = []
    for document in documents:
        ids: list[int] = []
        labels: list[int] = []
        for _, trained in document:
            piece = next(pieces)
            ids += piece
            labels += piece if trained else [IGNORED] * len(piece)
        examples.append((ids, labels))
    return examples


def pad(batch: Sequence[Example], filler: int) -> tuple[Tensor, Tensor]:
    """A right-padded batch; a causal model needs no mask for padding on the right."""
    width = max(len(ids) for ids, _ in batch)
    ids = [row + [filler] * (width - len(row)) for row, _ in batch]
    labels = [row + [IGNORED] * (width - len(row)) for _, row in batch]
    return torch.tensor(ids), torch.tensor(labels)


@dataclass(frozen=True)
class Plan:
    """How the base model is pre-trained."""

    steps: int
    batch: int
    lr: float
    warmup: int = 50
    pool: int = 32  # batches whose documents are sorted by length together


def batches(
    plan: Plan,
    tokenizer: PreTrainedTokenizerFast,
    draw: Callable[[random.Random, float], list[Segment]],
    rng: random.Random,
) -> Iterator[tuple[Tensor, Tensor]]:
    """`plan.steps` batches of documents of like length; `draw` takes how far training has come."""
    for start in range(0, plan.steps, plan.pool):
        count = min(plan.pool, plan.steps - start)
        documents = [draw(rng, start / plan.steps) for _ in range(count * plan.batch)]
        examples = sorted(encode(tokenizer, documents), key=lambda example: len(example[0]))
        starts = list(range(0, len(examples), plan.batch))
        rng.shuffle(starts)
        for at in starts:
            yield pad(examples[at : at + plan.batch], tokenizer.pad_token_id)


def pretrain(model: Qwen2ForCausalLM, stream: Iterator[tuple[Tensor, Tensor]], plan: Plan) -> None:
    """Train with AdamW, a short warm-up and a cosine fall of the learning rate to 2 percent."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), fused=True)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, plan.warmup)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, plan.steps - plan.warmup), plan.lr / 50)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], [plan.warmup])
    began, tokens = time.perf_counter(), 0
    model.train()
    for step, (ids, labels) in enumerate(stream, 1):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tokens += ids.numel()
        if step % 100 == 0 or step == plan.steps:
            rate = tokens / (time.perf_counter() - began)
            print(f"step {step}/{plan.steps} loss {loss.item():.3f} {rate:,.0f} tokens/s", file=sys.stderr)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model as a Hugging Face folder that older readers of `config.json` understand too."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes the rotary base inside `rope_parameters` only, and a class name of its own.
    added = {
        "config.json": {"rope_theta": model.config.rope_parameters["rope_theta"]},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, values in added.items():
        path = folder / name
        content = json.loads(path.read_text(encoding="utf-8")) | values
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)


@torch.no_grad()
def sample(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    limit: int = MAX_RESPONSE,
) -> list[str]:
    """One response a prompt at temperature 1, as text with its end-of-text token where it has one."""
    model.eval()
    encoded = tokenizer(
        [TEMPLATE.format(question=prompt) for prompt in prompts],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    width = encoded["input_ids"].shape[1]
    out = model.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=limit,
    )
    texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=False)
    return [text.split(EOS)[0] + EOS if EOS in text else text for text in texts]


def measure(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    columns: dict[str, list[str]],
    repeats: int = 4,
) -> dict[str, float]:
    """Sample each problem `repeats` times: accuracy (whole and by difficulty), modes, form and length."""
    seen: Counter[str] = Counter()
    tokens = 0
    for _ in range(repeats):
        responses = sample(model, tokenizer, columns["prompt"])
        tokens += sum(map(len, tokenizer(responses, add_special_tokens=False)["input_ids"]))
        for text, answer, difficulty in zip(responses, columns["answer"], columns["difficulty"], strict=True):
            match = FORMED.fullmatch(text.removesuffix(EOS)) if text.endswith(EOS) else None
            right = match is not None and match[2] == answer
            careful = WORKED.search(text) is not None
            seen.update(all=1, format=match is not None, right=right, cut=not text.endswith(EOS))
            seen.update({"careful": careful, "careful_right": careful and right})
            seen.update({difficulty: 1, f"{difficulty}_right": right})
    share = {
        "accuracy": seen["right"] / seen["all"],
        "careful_share": seen["careful"] / seen["all"],
        "careful_accuracy": seen["careful_right"] / max(1, seen["careful"]),
        "format_share": seen["format"] / seen["all"],
        "cut_off_share": seen["cut"] / seen["all"],
        "mean_response_tokens": tokens / seen["all"],
    }
    for name in ("easy", "medium", "hard"):
        share[f"accuracy_{name}"] = seen[f"{name}_right"] / max(1, seen[name])
    return {name: round(value, 4) for name, value in share.items()}
