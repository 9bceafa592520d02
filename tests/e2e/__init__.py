"""One `srpo serve`, looked at through a browser as an operator does; see test_prefect_ui.py."""
