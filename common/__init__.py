"""The lab's parts, one room each; imports point down only."""
