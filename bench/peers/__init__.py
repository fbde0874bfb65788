"""Workers that run one checkpoint in one engine and obey timing requests over a pipe; each file stands alone."""
