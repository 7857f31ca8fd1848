"""Functions of sinks: filters, transforms and routes, written in the part of Elixir that Sequin takes. Pure.

| file | what it does |
|---|---|
| `parser.py`, `syntax.py` | code becomes Elixir's quoted form |
| `validator.py` | what the server refuses |
| `compiler.py`, `expressions.py` | quoted code becomes expressions |
| `folding.py` | what is known before any change, and how a filter can be found |
| `evaluator.py`, `patterns.py`, `meter.py` | expressions are evaluated, within a bound |
| `terms.py`, `structs.py`, `text.py`, `encoding.py`, `pcre.py` | Elixir's values |
| `library.py`, `stdlib/` | Elixir's functions, one file for each module |
| `columns.py`, `metadata.py` | what functions see of a change |
| `program.py`, `filters.py`, `transforms.py`, `routing_functions.py`, `column_filters.py`, `trial.py` | whole functions |
"""

from userhooks.engine.functions.column_filters import bind_column_filters as bind_column_filters
from userhooks.engine.functions.filters import Bound as Bound
from userhooks.engine.functions.filters import parse as parse
from userhooks.engine.functions.program import FunctionRaised as FunctionRaised
from userhooks.engine.functions.routing_functions import parse_route as parse_route
from userhooks.engine.functions.syntax import FunctionError as FunctionError
from userhooks.engine.functions.transforms import parse_transform as parse_transform
from userhooks.engine.functions.trial import check_function as check_function
