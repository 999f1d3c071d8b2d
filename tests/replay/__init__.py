"""Whole conversations, replayed turn by turn through both doors."""
