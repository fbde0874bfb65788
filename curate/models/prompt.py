"""Prompts as files with versions: the rubric first, the question last, so that an engine computes the rubric once."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FOLDER = Path(__file__).parent / "prompts"
_FIELD = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Prompt:
    """A user message with `{{fields}}`.

    Attributes:
        version: name and version, such as "domain-1": part of every key.
        text: the template.
    """

    version: str
    text: str

    @classmethod
    def load(cls, name: str, folder: Path = FOLDER) -> Self:
        """The prompt in `<folder>/<name>.txt`, whose first line is "version: N".

        Raises:
            ValueError: there is no such prompt, or its first line gives no version.
        """
        path = folder / f"{name}.txt"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
            raise ValueError(f"no prompt {name!r} in {folder}; there are: {known}")
        first, _, text = path.read_text(encoding="utf-8-sig").partition("\n")
        found = re.fullmatch(r"version: (\d+)", first.strip())
        if found is None:
            raise ValueError(f'{path} begins with {first!r}; its first line must be "version: N"')
        return cls(f"{name}-{found[1]}", text.strip())

    def messages(self, **values: str) -> tuple[dict[str, str], ...]:
        """One user message. Values are put in as they are, whatever braces they hold.

        Raises:
            ValueError: a field without a value, or a value without a field.
        """
        fields = set(_FIELD.findall(self.text))
        if set(values) != fields:
            raise ValueError(f"prompt {self.version} takes {sorted(fields)}, given {sorted(values)}")
        return ({"role": "user", "content": _FIELD.sub(lambda m: values[m[1]], self.text)},)
