"""Files of a model repository on the Hugging Face Hub. Needs `pip install huggingface_hub`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

# `user/name`, and behind an @ a branch, a tag or a commit.
_NAME = re.compile(r"(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?")


def is_name(text: str) -> bool:
    """Whether the text has the form of a repository's name: `user/name` or `user/name@revision`.

    A path of a weights file that is not there has not: it shall not be looked for elsewhere.
    """
    return bool(_NAME.fullmatch(text)) and not text.endswith(".safetensors")


def download(name: str, file: str, most: int) -> Path:
    """Bring a file into the Hub's cache, in a folder named after its commit.

    What is there already stays. Without a connection, or with `HF_HUB_OFFLINE=1`, the cache alone
    is asked.

    Args:
        name: `user/name` or `user/name@revision`.
        file: its name.
        most: bytes that it may have. A larger one is not downloaded.

    Returns:
        Where it is.

    Raises:
        ValueError: if the name is none, or the file is not to be had or too large.
        ImportError: without the package `huggingface_hub`.
    """
    hub = _library()
    repository, revision = _split(name)
    try:
        size = hub.hf_hub_download(repository, file, revision=revision, dry_run=True).file_size
        if size is not None and size <= most:
            return Path(hub.hf_hub_download(repository, file, revision=revision))
    # Of many kinds, by the library's release and by its HTTP library.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{file!r} of {name!r} could not be had from the Hub: {type(error).__name__}: {reason}"
        ) from error
    raise ValueError(
        f"{file!r} of {name!r} on the Hub must have at most {most} bytes, got {size}.")


def upload(
    name: str, files: Mapping[str, bytes], private: bool | None = None, token: str | None = None
) -> str:
    """Put files into a repository, which is made if there is none, in one commit.

    Args:
        name: `user/name` or `user/name@branch`.
        files: contents by name.
        private: whether a repository that is made is seen by its owner alone. None: as the owner
            has set on the Hub.
        token: of the Hub; None for the one that `hf auth login` or `HF_TOKEN` left.

    Returns:
        The address of the commit.

    Raises:
        ValueError: if the name is none.
        ImportError: without the package `huggingface_hub`.
    """
    hub = _library()
    repository, revision = _split(name)
    api = hub.HfApi(token=token, library_name="hrnn_opt")
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.create_commit(
        repository, revision=revision, commit_message="Weights of a learned optimizer",
        operations=[
            hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
            for file, content in files.items()])
    return commit.commit_url


def _split(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(
            f"a name on the Hub must have the form 'user/name' or 'user/name@revision', got "
            f"{name!r}.")
    return match["repository"], match["revision"]


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "weights on the Hub need the package `huggingface_hub`: pip install huggingface_hub."
        ) from error
    return huggingface_hub
