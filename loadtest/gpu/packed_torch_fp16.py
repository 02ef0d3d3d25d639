"""Measures the fastest that PyTorch makes of a BERT encoder in FP16: the peer of our engine alone.

No padding is computed: texts are sorted by length and laid end to end, a fixed number of tokens in
a run, with attention by `torch.nn.attention.varlen` (FlashAttention), and everything between the
matrix products is fused by `torch.compile`. Token ids begin in the memory of the host, and vectors
end there, as with our engine; tokenizing is not part of it.

Before it is measured, its vectors are compared with those of transformers in FP32.
"""

import argparse
import copy
import json
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from steady import is_steady, until_steady
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

RECIPES = Path(__file__).parents[2] / "deploy/models/embed_models/recipes"
# Smallest cosine with FP32: below it, the peer would be fast at something else.
RIGHT = 0.999
CHECKED = 64


class Layer(nn.Module):  # type: ignore[misc]
    """One layer of a BERT encoder, on tokens without padding."""

    def __init__(self, layer: Any, heads: int) -> None:
        """Take the weights of a layer of transformers."""
        super().__init__()
        attention = layer.attention.self
        products = (attention.query, attention.key, attention.value)
        hidden = attention.query.in_features
        self.heads, self.size = heads, hidden // heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.qkv.weight = nn.Parameter(torch.cat([one.weight for one in products]))
        self.qkv.bias = nn.Parameter(torch.cat([one.bias for one in products]))
        self.out, self.norm = layer.attention.output.dense, layer.attention.output.LayerNorm
        self.up, self.down = layer.intermediate.dense, layer.output.dense
        self.last_norm = layer.output.LayerNorm

    def forward(self, x: torch.Tensor, starts: torch.Tensor, longest: int) -> torch.Tensor:
        """Return the layer's output for tokens x hidden; `starts` is where each text begins."""
        q, k, v = self.qkv(x).view(-1, 3, self.heads, self.size).unbind(1)
        attended = varlen_attn(q, k, v, starts, starts, longest, longest)
        x = self.norm(x + self.out(attended.reshape(x.shape)))
        return self.last_norm(x + self.down(functional.gelu(self.up(x))))


class Packed(nn.Module):  # type: ignore[misc]
    """A BERT encoder with pooling and normalisation, on tokens without padding."""

    def __init__(self, model: transformers.BertModel, pooling: str) -> None:
        """Take the weights of a model of transformers."""
        super().__init__()
        self.words, self.norm = model.embeddings.word_embeddings, model.embeddings.LayerNorm
        self.positions = model.embeddings.position_embeddings
        # All tokens are of type 0.
        self.kind = nn.Parameter(model.embeddings.token_type_embeddings.weight[0].clone())
        heads = model.config.num_attention_heads
        self.layers = nn.ModuleList(Layer(layer, heads) for layer in model.encoder.layer)
        self.mean = pooling == "mean"

    def forward(
        self,
        tokens: torch.Tensor,
        places: torch.Tensor,
        owners: torch.Tensor,
        starts: torch.Tensor,
        longest: int,
    ) -> torch.Tensor:
        """Return one vector a text, texts x hidden, in FP32."""
        x = self.norm(self.words(tokens) + self.positions(places) + self.kind)
        for layer in self.layers:
            x = layer(x, starts, longest)
        texts = starts.shape[0] - 1
        if self.mean:
            # Lengths do not matter before normalising. What fills the run up has a row of its own.
            sums = torch.zeros(texts + 1, x.shape[1], device=x.device, dtype=torch.float32)
            pooled = sums.index_add_(0, owners, x.float())[:texts]
        else:
            pooled = x[starts[:-1].long()].float()
        return functional.normalize(pooled, dim=1)


class Run:
    """Texts that are run at once: what `Packed` takes, in the memory of the host."""

    def __init__(self, texts: list[list[int]], total: int) -> None:
        """Lay texts end to end, and fill up to so many tokens."""
        lengths = np.array([len(ids) for ids in texts])
        fill = total - int(lengths.sum())
        tokens = np.concatenate([*map(np.array, texts), np.zeros(fill, int)])
        places = np.concatenate([*map(np.arange, lengths), np.zeros(fill, int)])
        owners = np.repeat(np.arange(len(texts) + 1), [*lengths, fill])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        self.inputs = [torch.from_numpy(a) for a in (tokens, places, owners, starts)]
        if torch.cuda.is_available():
            self.inputs = [a.pin_memory() for a in self.inputs]
        self.longest = int(lengths.max())

    def vectors(self, model: nn.Module, device: str) -> torch.Tensor:
        """Run it; the vectors stay on the device."""
        return model(*(a.to(device, non_blocking=True) for a in self.inputs), self.longest)


def runs(texts: list[list[int]], total: int) -> list[Run]:
    """Sort texts by length, and cut them into runs of at most so many tokens."""
    found: list[list[list[int]]] = [[]]
    left = total
    for ids in sorted(texts, key=len, reverse=True):
        if len(ids) > left:
            found.append([])
            left = total
        found[-1].append(ids)
        left -= len(ids)
    return [Run(one, total) for one in found]


def embed_all(model: nn.Module, device: str, work: list[Run]) -> npt.NDArray[np.float32]:
    """Return the vectors of all runs, on the host."""
    kept = [one.vectors(model, device).to("cpu", non_blocking=True) for one in work]
    if device != "cpu":
        torch.cuda.synchronize()
    return np.concatenate([one.numpy() for one in kept])


def smallest_cosine(
    reference: Any, model: nn.Module, device: str, texts: list[list[int]], pooling: str
) -> float:
    """Compare some texts with transformers in FP32; return the smallest cosine."""
    chosen = sorted(texts[:CHECKED], key=len, reverse=True)
    got = embed_all(model, device, [Run(chosen, sum(map(len, chosen)))])
    cosines = []
    for ids, vector in zip(chosen, got, strict=True):
        states = reference(torch.tensor([ids], device=device)).last_hidden_state[0].float()
        wanted = states.mean(0) if pooling == "mean" else states[0]
        cosines.append(
            float(functional.cosine_similarity(wanted.cpu(), torch.from_numpy(vector), dim=0))
        )
    return min(cosines)


def main() -> None:
    """Measure one model on the texts of one file, and write what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True, help="the model's shape: a recipe's name")
    parser.add_argument("--checkpoint", type=Path, help="its weights (default: random ones)")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with a `text`")
    parser.add_argument("--count", type=int, help="only the first so many texts")
    parser.add_argument("--tokens", type=int, nargs="+", default=[65_536, 131_072], help="of a run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()

    recipe = tomllib.loads((RECIPES / f"{options.recipe}.toml").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe["max_seq_length"])
    lines = options.texts.read_text(encoding="utf-8").splitlines()[: options.count]
    encoded = tokenizer.encode_batch([json.loads(line)["text"] for line in lines])
    texts = [one.ids for one in encoded]

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    if options.checkpoint is None:
        config = transformers.BertConfig(**recipe["architecture"])
        reference = transformers.BertModel(config, add_pooling_layer=False)
    else:
        reference = transformers.BertModel.from_pretrained(
            options.checkpoint, add_pooling_layer=False
        )
    reference = reference.float().eval().to(options.device)
    # A GPU's attention is there in FP16 alone.
    kind = torch.float32 if options.device == "cpu" else torch.float16
    packed = Packed(copy.deepcopy(reference), recipe["pooling"]).to(options.device, kind).eval()
    cosine = smallest_cosine(reference, packed, options.device, texts, recipe["pooling"])
    print(f"smallest cosine with FP32 {cosine:.6f}", flush=True)
    if cosine < RIGHT:
        raise SystemExit("the peer does not compute the model")
    compiled = torch.compile(packed)
    tried = []
    for total in options.tokens:
        work = runs(texts, total)
        begun = time.perf_counter()
        embed_all(compiled, options.device, work)
        seconds = time.perf_counter() - begun
        print(f"{total} tokens a run: {len(work)} runs, first pass {seconds:.1f} s", flush=True)
        rates = until_steady(partial(rate, compiled, options.device, work, len(texts)))
        tried.append(
            {
                "tokens": total,
                "rounds": [round(one, 1) for one in rates],
                "steady": is_steady(rates),
            }
        )
    best = max(tried, key=lambda one: one["rounds"][-1])
    found = {
        "schema": "akidb-embed/peer/1",
        "peer": "torch, packed and compiled",
        "recipe": options.recipe,
        "random_weights": options.checkpoint is None,
        "texts": len(texts),
        "tokens": sum(map(len, texts)),
        "file": options.texts.name,
        "precision": str(kind).removeprefix("torch."),
        "cosine_min": round(cosine, 6),
        "best": best,
        "tried": tried,
        "texts_per_second": best["rounds"][-1],
        "compiled": True,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": "cpu" if options.device == "cpu" else torch.cuda.get_device_name(),
    }
    options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"torch, packed and compiled, {options.recipe}: {found['texts_per_second']} texts/s")


def rate(model: nn.Module, device: str, work: list[Run], texts: int) -> float:
    """Return texts a second of one pass over all runs."""
    begun = time.perf_counter()
    vectors = embed_all(model, device, work)
    seconds = time.perf_counter() - begun
    if len(vectors) != texts:
        raise RuntimeError(f"{len(vectors)} vectors for {texts} texts")
    return texts / seconds


if __name__ == "__main__":
    main()
