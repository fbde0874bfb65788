"""The HTTP server: OpenAI's and Anthropic's endpoints, live control, a playground; engines are other processes."""
