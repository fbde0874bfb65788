"""The process reward model of s1-nano: its traces, their labels, its training and its card."""
