"""Preference pairs and evaluation prompts: from rows of any file or hub set to records."""
