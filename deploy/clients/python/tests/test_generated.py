"""What is generated from the schemas is up to date, and follows from them."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from conftest import ROOT


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "deploy/clients/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def test_the_generated_files_are_up_to_date() -> None:
    for path, text in generator().files().items():
        assert path.read_text() == text, f"{path}: run deploy/clients/generate.py"


def test_a_new_field_and_a_new_code_come_into_both_languages() -> None:
    generate = generator()
    document = generate.read()
    document.schemas["EmbedRequest"]["properties"]["shiny"] = {"type": ["integer", "null"]}
    document.schemas["ErrorCode"]["anyOf"].append({"const": "too_shiny", "description": "It is."})
    assert "shiny: NotRequired[int | None]" in generate.python_names(document)
    assert "shiny?: number | null;" in generate.typescript(document)
    assert "class TooShinyError(WireError):" in generate.python_codes(document)
    assert '| "too_shiny"' in generate.typescript(document)
