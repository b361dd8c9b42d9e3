"""To the hub, with its ordinary client."""

from __future__ import annotations

from pathlib import Path


def push(folder: Path, name: str, private: bool) -> str:
    """Push a folder that is written whole; the address of the repository.

    Args:
        folder: of the student.
        name: ``<user>/<name>``; made where it is missing.
        private: whether it has to be private.

    Raises:
        ValueError: no network, no token, no right, or a public repository where a private one was asked for; the folder
            stays as it is.
    """
    from huggingface_hub import HfApi

    try:
        client = HfApi()
        address = str(client.create_repo(name, private=private, exist_ok=True))
        public = private and not client.model_info(name).private
        if not public:
            client.upload_folder(repo_id=name, folder_path=folder, commit_message="A distilled student of kd-env")
    except Exception as error:  # the client fails in many ways; the cause is kept
        lines = str(error).strip().splitlines()
        raise ValueError(
            f"{folder} is written and stays, but the hub did not take it as {name!r} ({type(error).__name__}: "
            f"{lines[0] if lines else 'no reason'}). It needs a network and a token that may write (hf auth login); "
            f"then: hf upload {name} {folder}"
        ) from error
    if public:
        raise ValueError(
            f"{folder} is written and stays, but {name!r} is there already and public, and private=true was asked for: "
            "make it private on the hub, or choose another name."
        )
    return address
