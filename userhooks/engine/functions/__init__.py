"""Filters, transforms, and routing functions for sinks, written in the subset of Elixir that Sequin accepts. Pure.

| file | responsibility |
|---|---|
| `parser.py`, `syntax.py` | parse code into Elixir's quoted form |
| `validator.py` | reject the code that Sequin rejects |
| `compiler.py`, `expressions.py` | compile quoted code to expressions |
| `folding.py` | fold constants, and find the column value that a filter can be indexed by |
| `evaluator.py`, `patterns.py`, `meter.py` | evaluate expressions within a step limit |
| `terms.py`, `structs.py`, `text.py`, `encoding.py`, `pcre.py` | represent Elixir's values |
| `library.py`, `stdlib/` | implement Elixir's functions, one file per module |
| `columns.py`, `metadata.py` | present a change to functions |
| `program.py`, `filters.py`, `transforms.py`, `routing_functions.py`, `column_filters.py`, `trial.py` | run complete functions |
"""

from userhooks.engine.functions.column_filters import bind_column_filters as bind_column_filters
from userhooks.engine.functions.filters import Bound as Bound
from userhooks.engine.functions.filters import parse as parse
from userhooks.engine.functions.program import FunctionRaised as FunctionRaised
from userhooks.engine.functions.routing_functions import parse_route as parse_route
from userhooks.engine.functions.syntax import FunctionError as FunctionError
from userhooks.engine.functions.transforms import parse_transform as parse_transform
from userhooks.engine.functions.trial import check_function as check_function
