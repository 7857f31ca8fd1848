"""The part of Elixir's standard library that functions may call, one file per Elixir module. Pure.

Each file has a `FUNCTIONS` dictionary that maps names to implementations. An implementation takes a meter and the arguments, and raises
Raised where Elixir would raise. It spends steps from the meter for any work beyond traversing the outermost level of the arguments and
the result.

Implementations need not check the types of their arguments: the caller turns a Python error like TypeError into Elixir's "no function
clause matching".
"""
