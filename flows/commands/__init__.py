"""The commands of `srpo`, by what they are for. Nothing heavy is imported until a command runs."""
