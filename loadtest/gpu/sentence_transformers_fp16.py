"""Measures sentence-transformers on the same texts, in FP16, with the best settings that it has.

It is given every advantage: texts are in memory, its `encode` sorts them by length, attention is
PyTorch's scaled dot product (or FlashAttention without padding, where that is installed), vectors
stay on the device until the end, and the batch size that is fastest on a part of the texts is used
for all of them. Tokenizing is part of `encode`, as it is part of the work of a worker.
"""

import argparse
import importlib.util
import itertools
import json
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers import __version__ as version
from steady import MOST_ROUNDS, is_steady, until_steady

RECIPES = Path(__file__).parents[2] / "deploy/models/embed_models/recipes"
# Of the texts, for finding the best settings.
SWEEP_SHARE = 8


def write_checkpoint(recipe: dict[str, Any], tokenizer: Path, directory: Path) -> None:
    """Write a model of the recipe's shape with random weights, which is as fast as the real one."""
    shape = recipe["architecture"]
    torch.manual_seed(0)
    config = transformers.BertConfig(**shape)
    transformers.BertModel(config, add_pooling_layer=False).half().save_pretrained(directory)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer),
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)
    cls = recipe["pooling"] == "cls"
    files = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(
                (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
            )
        ],
        "sentence_bert_config.json": {
            "max_seq_length": recipe["max_seq_length"],
            "do_lower_case": False,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": shape["hidden_size"],
            "pooling_mode_cls_token": cls,
            "pooling_mode_mean_tokens": not cls,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    (directory / "2_Normalize").mkdir()
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def load(directory: Path, attention: str, device: str, compiled: bool) -> SentenceTransformer:
    """Load a checkpoint in FP16."""
    kwargs = {"attn_implementation": attention, "dtype": torch.float16}
    model = SentenceTransformer(str(directory), device=device, model_kwargs=kwargs).half().eval()
    if compiled:
        model[0].model.compile(dynamic=True)
    return model


def encode(model: SentenceTransformer, texts: list[str], batch: int, on_device: bool) -> float:
    """Return the seconds that it takes to embed all texts, the copy to the CPU included."""
    start = time.perf_counter()
    vectors = model.encode(
        texts, batch_size=batch, show_progress_bar=False, convert_to_tensor=on_device
    )
    if on_device:
        vectors = vectors.cpu()
    seconds = time.perf_counter() - start
    if len(vectors) != len(texts):
        raise RuntimeError(f"{len(vectors)} vectors for {len(texts)} texts")
    return seconds


def measure(options: argparse.Namespace, directory: Path, texts: list[str]) -> dict[str, Any]:
    """Sweep the settings on a part of the texts, and measure the best on all."""
    attentions = ["sdpa"]
    if importlib.util.find_spec("flash_attn"):
        attentions.append("flash_attention_2")
    part = texts[: max(len(texts) // SWEEP_SHARE, 1)]
    tried = []
    for attention in attentions:
        model = load(directory, attention, options.device, options.compile)
        encode(model, part[:256], 64, True)  # first kernels, and memory for them
        for batch, on_device in itertools.product(options.batch, (True, False)):
            encode(model, part[: 2 * batch], batch, on_device)
            rate = len(part) / encode(model, part, batch, on_device)
            tried.append(
                {
                    "attention": attention,
                    "batch_size": batch,
                    "vectors_stay_on_device": on_device,
                    "texts_per_second": round(rate, 1),
                }
            )
            print(f"  {tried[-1]}", flush=True)
    best = max(tried, key=lambda row: row["texts_per_second"])
    model = load(directory, best["attention"], options.device, options.compile)
    settings = (best["batch_size"], best["vectors_stay_on_device"])
    encode(model, part, *settings)
    rates = until_steady(lambda: len(texts) / encode(model, texts, *settings), options.rounds)
    return {
        "best": best,
        "tried": tried,
        "rounds": [round(rate, 1) for rate in rates],
        "steady": is_steady(rates),
        # The best round, not the median: no doubt shall fall on what it is compared with.
        "texts_per_second": round(max(rates), 1),
    }


def main() -> None:
    """Measure one model on the texts of one file, and write what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True, help="the model's shape: a recipe's name")
    parser.add_argument("--checkpoint", type=Path, help="its weights (default: random ones)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with a `text`")
    parser.add_argument("--count", type=int, help="only the first so many texts")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=MOST_ROUNDS, help="at most, until two agree")
    parser.add_argument("--compile", action="store_true", help="torch.compile; takes minutes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()

    lines = options.texts.read_text(encoding="utf-8").splitlines()[: options.count]
    texts = [json.loads(line)["text"] for line in lines]
    recipe = tomllib.loads((RECIPES / f"{options.recipe}.toml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.checkpoint or Path(temporary)
        if options.checkpoint is None:
            write_checkpoint(recipe, options.tokenizer, directory)
        with torch.inference_mode():
            found = measure(options, directory, texts)
    on_gpu = options.device.startswith("cuda")
    found |= {
        "schema": "akidb-embed/peer/1",
        "peer": "sentence-transformers",
        "recipe": options.recipe,
        "random_weights": options.checkpoint is None,
        "texts": len(texts),
        "file": options.texts.name,
        "precision": "fp16",
        "compiled": options.compile,
        "versions": {
            "sentence-transformers": version,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"sentence-transformers, {options.recipe}: {found['texts_per_second']} texts/s")


if __name__ == "__main__":
    main()
