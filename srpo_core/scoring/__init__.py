"""From verdicts to numbers one can trust: win rates, intervals, agreement, power. numpy and scipy only."""
