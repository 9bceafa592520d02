"""From verdicts to numbers one can trust: win rates, intervals, agreement, power. no model, no network and no disk."""
