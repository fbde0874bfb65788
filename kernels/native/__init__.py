"""The C++ library of `csrc/cpu`: how it is loaded, and the steps that it takes whole."""
