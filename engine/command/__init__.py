"""The command line: flags, lines in, the output file, what a person sees."""
