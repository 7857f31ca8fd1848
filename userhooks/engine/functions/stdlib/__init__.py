"""The part of Elixir's standard library that functions may call, one file per Elixir module. Pure.

Each file has a `FUNCTIONS` dictionary that maps names to implementations. An implementation takes a meter and the arguments, and raises
Raised where Elixir would raise. If its work goes beyond the outermost level of the arguments and the result, it spends steps from the
meter.

Implementations need not check the types of their arguments: the caller turns a Python error like TypeError into Elixir's "no function
clause matching".
"""
