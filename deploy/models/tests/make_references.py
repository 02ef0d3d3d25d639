"""Makes the tiny checkpoints in `checkpoints/`, each with the vectors that the library gives it.

Needs torch, transformers and sentence-transformers, which nothing else here does, so it is run by
hand, in a virtual environment of its own, when an architecture comes in:

    python -m venv /tmp/hf && /tmp/hf/bin/pip install sentence-transformers==6.2.0
    /tmp/hf/bin/python tests/make_references.py

What it made stands in the repository with the versions that it was made with. The weights are
random, and so large that every part of a network shows in its vectors.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer, models
from sentence_transformers import __version__ as sentence_transformers_version
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).parent / "checkpoints"

TEXTS = (
    "hello world",
    "",
    "The quick brown fox jumps over the lazy dog.",
    "naïve café — Übermaß, 日本語 Привет",
    "a b c",
    "UNLESS calibrated well, numbers such as 3.14159 or -42 are wrong; quickly!",
    # Longer than any of the models takes.
    " ".join(f"the fox number {n} jumps over the dog" for n in range(20)),
)
POOLINGS = ("mean", "cls", "max", "weightedmean", "lasttoken")
WORDS = (
    *("hello", "world", "the", "quick", "brown", "fox", "jump", "over", "lazy", "dog", "a", "b"),
    *("c", "number", "is", "are", "s", "ly", "un", "less", "well", "such", "as", "or", "wrong"),
    *("cali", "brat", "ed"),
)
SHAPE = {"num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}


def word_piece(first: str, last: str, unknown: str, padding: str) -> Tokenizer:
    """Make BERT's kind of tokenizer; the special tokens come first."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,;!-"
    tokens = [first, padding, last, unknown]
    tokens += [word for word in WORDS if len(word) > 1] + list(letters)
    tokens += [f"##{part}" for part in (*"abcdefghijklmnopqrstuvwxyz0123456789", "ed", "s", "ly")]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(kinds.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    template(tokenizer, first, last)
    return tokenizer


def byte_pairs(first: str, last: str, unknown: str, padding: str) -> Tokenizer:
    """Make RoBERTa's kind of tokenizer: any byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("o", "x"), ("Ġ", "f"), ("Ġf", "ox")]
    tokens = [first, padding, last, unknown, *alphabet, *(a + b for a, b in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(kinds.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (last, vocabulary[last]), (first, vocabulary[first]), add_prefix_space=False
    )
    return tokenizer


def unigram(first: str, last: str, unknown: str, padding: str) -> Tokenizer:
    """Make XLM-RoBERTa's kind of tokenizer: pieces of sentences, words led by a mark."""
    pieces = [first, padding, last, unknown]
    scored: list[tuple[str, float]] = [(piece, 0.0) for piece in pieces]
    scored += [(f"▁{word}", -4.0 - len(word) / 10) for word in WORDS]
    letters = "▁abcdefghijklmnopqrstuvwxyzTUP.,;!0123456789-éäß日本語ривет"
    scored += [(letter, -9.0) for letter in letters]
    tokenizer = Tokenizer(kinds.Unigram(scored, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    template(tokenizer, first, last)
    return tokenizer


def template(tokenizer: Tokenizer, first: str, last: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )


@dataclass(frozen=True)
class Tiny:
    """A model to make: its network, its tokenizer, and what sentence-transformers puts behind."""

    config: transformers.PreTrainedConfig
    make_tokenizer: Callable[[str, str, str, str], Tokenizer]
    specials: tuple[str, str, str, str]
    tokenizer_class: str
    pooling: str
    dense: int | None = None
    normalize: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dtype: torch.dtype = torch.float32
    # None: leave sentence_bert_config.json out.
    max_seq_length: int | None = 24
    shard: str | None = None
    # The pooling's configuration as it was written before version 6.
    old_pooling: bool = False


BERT = ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
ROBERTA = ("<s>", "</s>", "<unk>", "<pad>")
MODERN = ("[CLS]", "[SEP]", "[UNK]", "[PAD]")


def tinies() -> dict[str, Tiny]:
    layers = {"num_hidden_layers": 2}
    c = transformers
    return {
        "bert": Tiny(
            c.BertConfig(**SHAPE, **layers, max_position_embeddings=48),
            word_piece, BERT, "BertTokenizer", "mean", old_pooling=True,
        ),
        "roberta": Tiny(
            c.RobertaConfig(**SHAPE, **layers, max_position_embeddings=42, type_vocab_size=1),
            byte_pairs, ROBERTA, "RobertaTokenizer", "cls", normalize=False,
            dtype=torch.float16, max_seq_length=None,
        ),
        "xlm-roberta": Tiny(
            c.XLMRobertaConfig(**SHAPE, **layers, max_position_embeddings=42, type_vocab_size=1),
            unigram, ROBERTA, "XLMRobertaTokenizer", "mean",
            prompts={"query": "query: ", "passage": "passage: "}, shard="20KB", dtype=torch.float16,
        ),
        "distilbert": Tiny(
            c.DistilBertConfig(
                dim=32, hidden_dim=48, n_heads=4, n_layers=2, max_position_embeddings=48
            ),
            word_piece, BERT, "DistilBertTokenizer", "mean", dense=20, normalize=False,
            dtype=torch.float16,
        ),
        "mpnet": Tiny(
            c.MPNetConfig(**SHAPE, **layers, max_position_embeddings=130),
            word_piece, ("<s>", "</s>", "[UNK]", "<pad>"), "MPNetTokenizer", "mean",
            max_seq_length=128, dtype=torch.float16,
        ),
        "modernbert": Tiny(
            c.ModernBertConfig(
                **SHAPE, num_hidden_layers=4, max_position_embeddings=64, local_attention=8
            ),
            byte_pairs, MODERN, "PreTrainedTokenizerFast", "mean",
            max_seq_length=60, dtype=torch.bfloat16,
        ),
        "nomic-bert": Tiny(
            c.NomicBertConfig(**SHAPE, **layers, max_position_embeddings=64),
            word_piece, BERT, "BertTokenizer", "mean", max_seq_length=60, dtype=torch.float16,
            prompts={"search_query": "search query: ", "search_document": ""},
            default_prompt="search_query",
        ),
        "gte": Tiny(
            c.GteConfig(**SHAPE, **layers, max_position_embeddings=64),
            unigram, ROBERTA, "XLMRobertaTokenizer", "cls", max_seq_length=60, dtype=torch.float16,
        ),
    }  # fmt: skip


def randomise(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give every parameter a size at which it matters, as it will be stored."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.3)
            parameter.copy_(parameter.to(dtype).to(torch.float32))


def write_files(tiny: Tiny, where: Path) -> None:
    """Write network and tokenizer as `transformers` would."""
    first, last, unknown, padding = tiny.specials
    tokenizer = tiny.make_tokenizer(first, last, unknown, padding)
    tokenizer.add_special_tokens([first, last, unknown, padding])
    config = tiny.config
    config.vocab_size = tokenizer.get_vocab_size()
    config.pad_token_id = tokenizer.token_to_id(padding)
    for of in ("bos", "cls"):
        setattr(config, f"{of}_token_id", tokenizer.token_to_id(first))
    for of in ("eos", "sep"):
        setattr(config, f"{of}_token_id", tokenizer.token_to_id(last))
    model = transformers.AutoModel.from_config(config)
    randomise(model, tiny.dtype)
    sizes = {"max_shard_size": tiny.shard} if tiny.shard else {}
    model.to(tiny.dtype).save_pretrained(where, **sizes)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=first, sep_token=last, bos_token=first,
        eos_token=last, unk_token=unknown, pad_token=padding, model_max_length=40,
    )  # fmt: skip
    wrapped.save_pretrained(where)
    settings = json.loads((where / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = tiny.tokenizer_class
    (where / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_model(tiny: Tiny, where: Path) -> None:
    """Write the directory of a sentence-transformers model."""
    with tempfile.TemporaryDirectory() as temporary:
        write_files(tiny, Path(temporary))
        network = models.Transformer(temporary)
        modules: list[Any] = [network, models.Pooling(32, tiny.pooling)]
        if tiny.dense:
            modules.append(models.Dense(32, tiny.dense, activation_function=torch.nn.Tanh()))
            randomise(modules[-1], torch.float32)
        if tiny.normalize:
            modules.append(models.Normalize())
        if tiny.max_seq_length:
            network.max_seq_length = tiny.max_seq_length
        saved = SentenceTransformer(
            modules=modules, prompts=tiny.prompts or None, default_prompt_name=tiny.default_prompt
        )
        saved.save(str(where), create_model_card=False)
        # As they were stored: loading has made float32 of the weights, and one file.
        for path in Path(temporary).glob("model*.safetensors*"):
            (where / "model.safetensors").unlink(missing_ok=True)
            shutil.copyfile(path, where / path.name)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path(temporary) / name, where / name)
    if tiny.max_seq_length is None:
        (where / "sentence_bert_config.json").unlink()
    else:
        settings = {"max_seq_length": tiny.max_seq_length, "do_lower_case": False}
        (where / "sentence_bert_config.json").write_text(json.dumps(settings) + "\n")
    if tiny.old_pooling:
        old = {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        }
        (where / "1_Pooling" / "config.json").write_text(json.dumps(old, indent=2) + "\n")


def encoded(
    where: Path, prompt: str | None = None, pooling: str | None = None
) -> list[list[float]]:
    """Return what sentence-transformers makes of the texts, each alone."""
    model = SentenceTransformer(str(where), device="cpu", model_kwargs={"dtype": torch.float32})
    if pooling:
        model[1].pooling_mode = pooling
    rows = [model.encode(text, prompt_name=prompt) for text in TEXTS]
    return [[round(float(x), 8) for x in row] for row in rows]


def main() -> None:
    """Replace everything in `checkpoints/`."""
    torch.manual_seed(0)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    references: dict[str, Any] = {
        "made_with": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "sentence_transformers": sentence_transformers_version,
        },
        "texts": TEXTS,
        "models": {},
    }
    for name, tiny in tinies().items():
        where = OUT / name
        write_model(tiny, where)
        entry: dict[str, Any] = {"vectors": encoded(where)}
        entry["prompts"] = {prompt: encoded(where, prompt) for prompt in tiny.prompts}
        if name == "bert":
            entry["poolings"] = {mode: encoded(where, pooling=mode) for mode in POOLINGS}
        references["models"][name] = entry
    content = json.dumps(references, ensure_ascii=False)
    # One row of numbers a line.
    content = content.replace("]], ", "]],\n").replace("], [", "],\n[").replace("{", "{\n")
    (OUT / "references.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
