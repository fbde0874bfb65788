"""How likely the model finds each token of a prompt behind those before it."""

from collections.abc import Callable

from engine.errors import EngineDead
from engine.messages import Command
from engine.reading import Collected, Found, Reading
from engine.request import Logprob
from engine.schedule.sequence import Prepared


class PromptLogprobs(Reading[list[Logprob]]):
    """Log-probabilities that were asked for: of the prompt's tokens, in order, from the second on."""

    def __init__(self, prepared: Prepared, tell: Callable[[Command], None]) -> None:
        """For a prompt of one token nothing has to run, and there is nothing to tell."""
        super().__init__(tell)
        self._prepared = prepared
        if not prepared.reads:
            self.future.set_result([])

    def queued(self, number: int) -> "PromptLogprobs":
        """It runs as request `number`."""
        self.number, self.response = number, Collected(self._prepared, self._collected)
        return self

    def _collected(self, found: Found | EngineDead, _: int) -> None:
        if isinstance(found, EngineDead):
            return self.fail(found)
        prompt = self._prepared.prompt
        self.future.set_result([Logprob(prompt[at + 1], *found[at]) for at in self._prepared.reads])
        return None
