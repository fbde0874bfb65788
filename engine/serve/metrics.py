"""/metrics, in Prometheus' format. Labels have few values: never an id, nor what a client wrote."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.request import RequestOutput
from engine.serve.service import Service

_TOKENS = (0, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """Counted where requests end; what the engines say is read when somebody asks."""

    def __init__(self, service: Service) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Engines(service))
        self.replies = Counter("s1_http_replies", "Replies.", ["status"], registry=registry)
        self._prompt = Counter("s1_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached = Counter("s1_cached_tokens", "Those found in the prefix cache.", registry=registry)
        self._written = Counter("s1_completion_tokens", "Tokens written.", registry=registry)
        self._forced = Counter("s1_forced_tokens", "Those that the engine wrote.", registry=registry)
        self._finished = Counter("s1_samples", "Samples that ended.", ["finish_reason"], registry=registry)
        self._ended = Counter("s1_thinking_ends", "Why thinking ended.", ["stop_reason"], registry=registry)
        self._extensions = Counter("s1_extensions", "Ends of thinking that were replaced.", registry=registry)
        self._thinking = Histogram(
            "s1_thinking_tokens", "Thinking tokens of a sample.", buckets=_TOKENS, registry=registry
        )
        self._queue = Histogram("s1_queue_seconds", "Waiting for a slot.", buckets=_SECONDS, registry=registry)
        self._first = Histogram(
            "s1_first_token_seconds", "To the first token of a request.", buckets=_SECONDS, registry=registry
        )
        self._total = Histogram("s1_request_seconds", "A request in all.", buckets=_SECONDS, registry=registry)

    def count(self, outputs: Sequence[RequestOutput]) -> None:
        """Requests that have ended."""
        for output in outputs:
            self._prompt.inc(output.usage.prompt_tokens)
            self._cached.inc(output.usage.cached_tokens)
            self._written.inc(output.usage.completion_tokens)
            self._forced.inc(output.usage.forced_tokens)
            self._queue.observe(output.timing.queue_s)
            self._first.observe(output.timing.ttft_s)
            self._total.observe(output.timing.total_s)
            for sample in output.outputs:
                self._finished.labels(sample.finish_reason).inc()
                if sample.thinking.stop_reason is not None:
                    self._ended.labels(sample.thinking.stop_reason).inc()
                    self._thinking.observe(sample.thinking.tokens)
                self._extensions.inc(sample.thinking.extensions)

    def page(self) -> bytes:
        """What a scraper reads."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """What each replica said last."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters, one of each for a replica."""
        yield GaugeMetricFamily("s1_ready", "Whether requests are taken.", self._service.ready)
        yield GaugeMetricFamily("s1_open_requests", "Requests that have not ended.", self._service.replicas.open)
        yield CounterMetricFamily("s1_replica_restarts", "Engines started again.", self._service.replicas.restarts)
        replicas = self._service.replicas.all
        for name in ("running", "waiting", "pages_total", "pages_free"):
            gauge = GaugeMetricFamily(f"s1_{name}", f"{name} of an engine.", labels=["replica"])
            for index, one in enumerate(replicas):
                if one is not None:
                    gauge.add_metric([str(index)], one.stats.get(name, 0))
            yield gauge
        for name in ("steps", "preemptions", "prefix_hit_tokens", "prefill_tokens", "decode_tokens"):
            counter = CounterMetricFamily(f"s1_engine_{name}", f"{name} of an engine.", labels=["replica"])
            for index, one in enumerate(replicas):
                if one is not None:
                    counter.add_metric([str(index)], one.stats.get(name, 0))
            yield counter
