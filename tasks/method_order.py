"""The order of the methods in tables and comparisons: the paper's own first, then its baselines, so that neighbours compare."""

METHOD_ORDER = ("srpo", "dpo_both", "ipo_both", "dpo", "ipo", "sft", "hub")


def method_rank(method: str | None) -> tuple[int, str]:
    """Sort key of a method; one that is not in METHOD_ORDER comes after those that are."""
    return (METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER), str(method))


def method_position(column: str) -> str:
    """The SQL expression to order by: `method_rank` of a column, NULL (last) for a method that is not in METHOD_ORDER."""
    return f"list_position({list(METHOD_ORDER)}, {column})"
