"""Brings tokenizer.json into the one form that the registry holds.

Truncation and padding are switched off: the worker truncates by the model's max_seq_length, and
pads to the longest sequence of a batch. The rest is kept as it is.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece

from embed_models.checkpoint import Checkpoint
from embed_models.errors import CheckpointError
from embed_models.json_files import read_object_if_present
from embed_models.rotary import RotaryCheckpoint

_BERT_ENDS, _ROBERTA_ENDS = ("[CLS]", "[SEP]"), ("<s>", "</s>")
# The tokenizer classes of transformers that put their own tokens around a text, whatever
# tokenizer.json says, with the tokens that they take unless tokenizer_config.json names others.
_ENDS = {
    "BertTokenizer": _BERT_ENDS,
    "DistilBertTokenizer": _BERT_ENDS,
    "RobertaTokenizer": _ROBERTA_ENDS,
    "XLMRobertaTokenizer": _ROBERTA_ENDS,
    "CamembertTokenizer": _ROBERTA_ENDS,
    "MPNetTokenizer": _ROBERTA_ENDS,
}
# Those that lowercase by `do_lower_case` of tokenizer_config.json, whatever tokenizer.json says.
_LOWERCASING = ("BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer")
# The class that is taken where no file names one. Of other models it is what tokenizer.json says.
_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "nomic_bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "mpnet": "MPNetTokenizer",
    "gte": "XLMRobertaTokenizer",
}


def registry_tokenizer(checkpoint: Checkpoint | RotaryCheckpoint) -> str:
    """Return the text of the registry's tokenizer.json, having checked that it fits the model."""
    text = _without_truncation_and_padding(checkpoint.tokenizer)
    tokenizer = load_tokenizer(text)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    largest = max(vocabulary.values(), default=-1)
    if largest >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"tokenizer.json makes token ids up to {largest}, but config.json has a vocab_size "
            f"of {checkpoint.config.vocab_size}; the two belong to different checkpoints"
        )
    if checkpoint.sentence.do_lower_case and not _lowercases(checkpoint.tokenizer):
        raise CheckpointError(
            "sentence_bert_config.json says do_lower_case, but the normalizer in tokenizer.json "
            "does not lowercase; set lowercase in its BertNormalizer to true"
        )
    return text


def check_ends(directory: Path, text: str) -> None:
    """Refuse a tokenizer that begins or ends texts otherwise than transformers would.

    `directory` is where config.json and tokenizer_config.json stand, which say what it would do;
    `text` is that of the tokenizer.json.
    """
    settings = read_object_if_present(directory / "tokenizer_config.json")
    config = read_object_if_present(directory / "config.json")
    name = (
        settings.get("tokenizer_class")
        or config.get("tokenizer_class")
        or _CLASS_OF_MODEL.get(str(config.get("model_type")))
    )
    kind = str(name).removesuffix("Fast")
    if kind not in _ENDS:
        return
    tokenizer = load_tokenizer(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    keys = ("cls_token", "sep_token")
    wanted = [_token(settings, key) or usual for key, usual in zip(keys, _ENDS[kind], strict=True)]
    for token in wanted:
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(
                f"tokenizer.json does not have {token}, which {kind} puts around a text; "
                "save the tokenizer again with transformers"
            )
    # A letter may be no token, or several; between the ends is what the text makes.
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    first, last = (tokenizer.token_to_id(token) for token in wanted)
    found = tokenizer.encode("a").ids
    if found != [first, *bare, last]:
        tokens = [tokenizer.id_to_token(index) for index in found]
        raise CheckpointError(
            f"tokenizer.json makes {' '.join(map(str, tokens))} of the text `a`, but {kind} of "
            f"transformers begins it with {wanted[0]} and ends it with {wanted[1]}, so its vectors "
            "would be others; save the tokenizer again with transformers, which writes a "
            "post_processor that does the same"
        )
    _check_lowercasing(settings, tokenizer, kind)


def _check_lowercasing(settings: dict[str, Any], tokenizer: Tokenizer, kind: str) -> None:
    """Refuse a tokenizer whose own normalizer disagrees with the class's setting."""
    # A BERT may have the Unigram tokenizer of XLM-R, whose normalizer the class leaves alone.
    if kind not in _LOWERCASING or not isinstance(tokenizer.model, WordPiece):
        return
    # What a class does that is told nothing, in version 5 as before.
    wanted = settings.get("do_lower_case", True)
    lowercases = "A" not in _normalised(tokenizer, "A")
    if lowercases != wanted:
        said = "" if "do_lower_case" in settings else ", unless told otherwise"
        raise CheckpointError(
            f"{kind} of transformers has do_lower_case {wanted} here (tokenizer_config.json{said}),"
            " but the normalizer in tokenizer.json "
            f"{'lowercases' if lowercases else 'does not lowercase'}; save the tokenizer again "
            "with transformers"
        )


def _normalised(tokenizer: Tokenizer, text: str) -> str:
    return text if tokenizer.normalizer is None else str(tokenizer.normalizer.normalize_str(text))


def _token(settings: dict[str, Any], key: str) -> str | None:
    """Return a special token, which is written as a text or as an object."""
    value = settings.get(key)
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def normalised_tokenizer(text: str, origin: str) -> str:
    """Return the registry's form of any tokenizer.json; `origin` is what errors call it."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{origin} is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{origin} holds no JSON object; give a tokenizer.json")
    normalised = _without_truncation_and_padding(raw)
    load_tokenizer(normalised)
    return normalised


def load_tokenizer(text: str) -> Tokenizer:
    """Load the text of a tokenizer.json."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(
            f"tokenizer.json cannot be loaded ({error}); "
            "save it again with a current version of the tokenizers library"
        ) from error


def _without_truncation_and_padding(tokenizer: dict[str, Any]) -> str:
    normalised = tokenizer | {"truncation": None, "padding": None}
    return json.dumps(normalised, ensure_ascii=False, separators=(",", ":")) + "\n"


def _lowercases(tokenizer: dict[str, Any]) -> bool:
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("lowercase") or step.get("type") == "Lowercase" for step in steps)
