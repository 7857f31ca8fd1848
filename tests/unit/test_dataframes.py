"""The rule for functions that return a DataFrame: the first sentence of the docstring says so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import userhooks

PACKAGE = Path(userhooks.__file__).parent


def test_every_public_function_that_returns_a_dataframe_says_so_in_its_first_sentence() -> None:
    functions = [
        (f"{path.relative_to(PACKAGE)}: {node.name}", ast.get_docstring(node) or "")
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if node.returns is not None and ast.unparse(node.returns) == "pd.DataFrame"
    ]
    assert len(functions) > 10
    first_sentences = {name: re.split(r"[.;:]\s|\n\n", text)[0] for name, text in functions}
    assert [name for name, sentence in first_sentences.items() if not re.match(r"Return .*\bDataFrame\b", sentence, re.DOTALL)] == []
