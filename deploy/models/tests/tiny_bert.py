"""Makes a tiny random BERT checkpoint directory, in the layout of a sentence-transformers model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from embed_models.checkpoint import BertConfig, Checkpoint, Tensors
from embed_models.sentence_config import SentenceConfig

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("hello", "world", "the", "fox", "quick", "##s", "a", "##b", "1", "!", ".")

BERT_CONFIG = BertConfig(
    **{key: value for key, value in CONFIG.items() if key in BertConfig.__dataclass_fields__}
)


def random_tensors(seed: int = 0) -> Tensors:
    """Return weights large enough for every part of the network to matter."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(1.0 if name.endswith("Norm.weight") else 0.0, 0.3, shape).astype(
            np.float32
        )
        for name, shape in BERT_CONFIG.tensor_shapes().items()
    }


def tokenizer_json() -> dict[str, Any]:
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *WORDS))}
    return {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": 8,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_checkpoint(directory: Path, *, prefix: str = "", tensors: Tensors | None = None) -> None:
    """Write a checkpoint with mean pooling; tests then change single files of it."""
    write_json(directory / "config.json", CONFIG)
    write_json(directory / "tokenizer.json", tokenizer_json())
    write_json(
        directory / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False}
    )
    write_json(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
        },
    )
    write_json(
        directory / "modules.json",
        [
            {"path": path, "type": f"sentence_transformers.models.{name}"}
            for path, name in (
                ("", "Transformer"),
                ("1_Pooling", "Pooling"),
                ("2_Normalize", "Normalize"),
            )
        ],
    )
    (directory / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n\n# Tiny\n")
    stored = random_tensors() if tensors is None else tensors
    save_file(
        {prefix + name: tensor for name, tensor in stored.items()}, directory / "model.safetensors"
    )


def tiny_checkpoint() -> Checkpoint:
    """Return the checkpoint without any files."""
    return Checkpoint(
        config=BERT_CONFIG,
        tensors=random_tensors(),
        tokenizer=tokenizer_json(),
        pooling="mean",
        max_seq_length=24,
        sentence=SentenceConfig("mean", 24, False, {}, normalizes=True),
        license="mit",
    )


def random_sequences(count: int, seed: int = 0) -> list[list[int]]:
    """Return token sequences of 3 to 24 tokens, from [CLS] to [SEP]."""
    random = np.random.default_rng(seed)
    return [[2, *random.integers(4, 64, random.integers(1, 23)).tolist(), 3] for _ in range(count)]
