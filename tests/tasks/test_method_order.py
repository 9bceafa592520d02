"""The order of methods is one list, whether Python sorts by it or the database does."""

import duckdb

from tasks.method_order import METHOD_ORDER, method_position, method_rank


def test_the_database_orders_methods_as_python_does():
    methods = [*reversed(METHOD_ORDER), "another"]
    values = ", ".join(f"('{method}')" for method in methods)
    found = duckdb.sql(f"SELECT method FROM (VALUES {values}) t(method) ORDER BY {method_position('method')}").fetchall()
    assert [method for (method,) in found] == sorted(methods, key=method_rank) == [*METHOD_ORDER, "another"]


def test_a_method_without_a_place_and_none_come_last():
    assert sorted(["zeta", "sft", None, "srpo"], key=method_rank) == ["srpo", "sft", None, "zeta"]
