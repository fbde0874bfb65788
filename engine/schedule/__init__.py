"""What runs next and who holds which page: admission, preemption, shared prefixes, pages given back."""
