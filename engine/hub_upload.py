"""`--push-to-hub OWNER/NAME`: a folder with its card becomes a repository on the hub, private unless asked."""

import glob
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.errors import InputError, first_line, refuse, shown, tell
from engine.hub_card import check_card

_ROUTES = "datasets|models|spaces|api|docs"
"""What stands for no owner in an address of the hub."""


def check_target(repository: str | None, public: bool) -> None:
    """To be called before the work whose result may be uploaded. Raises InputError for another form than OWNER/NAME,
    where nobody is logged in, and for --public without it."""
    if repository is None:
        refuse((public, "--public says who sees an upload; give --push-to-hub OWNER/NAME too"))
        return
    # Only here, where its second of imports buys something.
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        refused = "" if re.fullmatch(rf"(?!({_ROUTES})/)[^/]+/[^/]+", repository) else "no slash, or no owner"
    except HFValidationError as error:
        refused = first_line(error)
    if refused:
        raise InputError(f"--push-to-hub is {shown(repository)}; give OWNER/NAME, such as my-name/my-model")
    if get_token() is None:
        raise InputError(f"--push-to-hub {repository}: nobody is logged in; run `hf auth login`, or set HF_TOKEN")


def push_folder(
    folder: Path,
    repository: str,
    kind: Literal["model", "dataset"],
    public: bool,
    command: Sequence[str],
    only: Sequence[str] | None = None,
) -> int:
    """Uploads `folder` as one of `kind` and says where it is, or why it is not; returns the exit code: 0, 1 where its
    card or the hub refuses or nobody answers, 130 interrupted. What is there stays. A repository that is there already
    keeps its visibility and what else it holds.

    Args:
        command: what to run again after a failure.
        only: names of files in `folder`, which alone are uploaded; None: all that it holds.
    """
    from huggingface_hub import HfApi

    try:
        check_card(folder, kind)
        api = HfApi()
        url = api.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            repo_type=kind,
            commit_message=f"Upload {folder.name}",
            allow_patterns=None if only is None else [glob.escape(name) for name in only],
        )
    except KeyboardInterrupt:
        tell(f"interrupted; {folder} is not uploaded, or not all of it: run `{shlex.join(command)}` again")
        return 130
    except Exception as error:  # besides the hub's own, those of the HTTP library that this version of it has
        why = str(error) if isinstance(error, InputError) else first_line(error)
        tell(f"{folder} is not uploaded to {repository} ({why}); it stays: run `{shlex.join(command)}` again")
        return 1
    print(f"uploaded to {url}", file=sys.stderr)
    return 0
