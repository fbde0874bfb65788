"""Budgets and "Wait"s: formats, what a request asks for, and the state machine that enforces it."""
