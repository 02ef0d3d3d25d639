"""How the relatives of BERT name their settings and tensors.

RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet compute what BERT computes. They differ in
names, in where positions begin, and MPNet in a bias of the attention by distance. So their tensors
are brought under BERT's names, and everything behind the import knows one network.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Our names of the sizes, which are BERT's -> their names in config.json.
_SIZES = {
    name: name
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
    )
}


@dataclass(frozen=True)
class Family:
    """What distinguishes an architecture from BERT."""

    sizes: Mapping[str, str] = field(default_factory=lambda: _SIZES)
    # The key of the activation function.
    activation: str = "hidden_act"
    # What a model with a task head puts before the names of the encoder's tensors.
    prefixes: tuple[str, ...] = ("",)
    # Parts of BERT's names of tensors -> parts of theirs, replaced in this order.
    renamed: Mapping[str, str] = field(default_factory=dict)
    token_types: bool = True
    # Rows of the position table before that of the first token: `pad_token_id` of config.json and
    # one more, or this id and one more.
    positions_follow_padding: bool = False
    padding_id: int | None = None
    # MPNet's bias of the attention by distance.
    relative_bias: bool = False
    # None: `layer_norm_eps` of config.json.
    layer_norm_eps: float | None = None

    def stored(self, name: str) -> str:
        """Return the name under which the family stores a tensor of BERT's."""
        for ours, theirs in self.renamed.items():
            name = name.replace(ours, theirs)
        return name


_ROBERTA = Family(prefixes=("", "roberta."), positions_follow_padding=True)

FAMILIES: dict[str, Family] = {
    "bert": Family(prefixes=("", "bert.")),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        sizes=_SIZES
        | {
            "hidden_size": "dim",
            "intermediate_size": "hidden_dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
        },
        activation="activation",
        prefixes=("", "distilbert."),
        renamed={
            "encoder.layer.": "transformer.layer.",
            "attention.self.query": "attention.q_lin",
            "attention.self.key": "attention.k_lin",
            "attention.self.value": "attention.v_lin",
            "attention.output.dense": "attention.out_lin",
            "attention.output.LayerNorm": "sa_layer_norm",
            "intermediate.dense": "ffn.lin1",
            "output.dense": "ffn.lin2",
            "output.LayerNorm": "output_layer_norm",
        },
        token_types=False,
        layer_norm_eps=1e-12,
    ),
    "mpnet": Family(
        prefixes=("", "mpnet."),
        renamed={
            "attention.self.query": "attention.attn.q",
            "attention.self.key": "attention.attn.k",
            "attention.self.value": "attention.attn.v",
            "attention.output.dense": "attention.attn.o",
            "attention.output.LayerNorm": "attention.LayerNorm",
        },
        token_types=False,
        positions_follow_padding=True,
        # Whatever config.json says, the library takes 1.
        padding_id=1,
        relative_bias=True,
    ),
}
