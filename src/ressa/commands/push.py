"""`ressa push`: a result folder to the hub, once its files are what its manifest says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from ressa.checkpoint import MANIFEST, find, read_manifest
from ressa.commands.outcome import Outcome
from ressa.errors import RunError, UsageError

# A model that was uploaded before may have been cut into other files.
REPLACED = ["*.safetensors", "*.safetensors.index.json"]
HIDDEN = [".*", "*/.*"]

REFUSALS = {
    401: "does not know this token (401): log in with `hf auth login`, or set HF_TOKEN to one that is valid",
    403: "does not let this token write there (403): use one with write access, or name a repository of your own",
    404: "has no such place, or hides it from this token (404): check the name, and log in as its owner",
}


def push_folder(
    folder: str, repo: str, *, private: bool | None = None, message: str | None = None
) -> Outcome:
    """Upload a result folder as one commit of a model repository, which is made where there is none.

    private: whether a new repository is; None leaves it to the hub (public, unless its organisation says otherwise).
    What an earlier upload left is replaced as far as it is weights. Raises UsageError for what cannot be done, RunError
    where the weights are not what `ressa.json` says, or the hub refuses.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UsageError(
            f"{repo} is no name of a repository: write OWNER/NAME, as in me/llava-2-4."
        ) from None
    source = Path(find(folder))
    read_manifest(source)
    if constants.HF_HUB_OFFLINE:
        raise UsageError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it.")
    if get_token() is None:
        raise UsageError("There is no token for the hub: log in with `hf auth login`, or set HF_TOKEN.")
    check_result(source)
    files = [path for path in source.rglob("*") if path.is_file() and not _hidden(path, source)]
    size = sum(path.stat().st_size for path in files)
    api = HfApi()
    with _told(repo, api.endpoint):
        url = api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=url.repo_id,
            folder_path=source,
            commit_message=message or f"Upload {source.resolve().name}, made by ressa",
            ignore_patterns=list(HIDDEN),
            delete_patterns=REPLACED,
        )
    data = {
        "model": folder,
        "repository": url.repo_id,
        "url": str(url),
        "commit": commit.oid,
        "files": len(files),
        "bytes": size,
    }
    return Outcome(data, lines=[f"{len(files)} files ({size / 1e6:,.1f} MB) are in {url}."])


def check_result(folder: Path) -> None:
    """Count a result's zeros again. Raises RunError unless they are those that its manifest says, in its patterns."""
    from ressa.checkpoint import count_sparsity  # PyTorch comes with it

    said = {report.name: report.achieved for report in read_manifest(folder).layers}
    for layer in count_sparsity(folder).layers:
        if layer.holds is False or abs(layer.sparsity - said[layer.name]) > 1e-9:
            raise RunError(
                f"{layer.name} has {layer.sparsity:.2%} zeros and is not what {folder / MANIFEST} says of it "
                f"({layer.asked}, {said[layer.name]:.2%}): nothing was uploaded; make the folder again."
            )


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


@contextmanager
def _told(repo: str, endpoint: str) -> Iterator[None]:
    """Turns what the hub, and the network on the way there, say into one sentence. The hub's library hides some of it
    within errors of its own."""
    try:
        yield
    except Exception as error:
        causes = [error]
        while (cause := causes[-1].__cause__) is not None and isinstance(cause, Exception):
            causes.append(cause)
        for each in causes:
            if (sentence := _sentence(each, repo, endpoint)) is not None:
                raise RunError(sentence) from error
        raise


def _sentence(error: Exception, repo: str, endpoint: str) -> str | None:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        why = REFUSALS.get(status, f"refused it ({status}: {said.rstrip('.')}): try again later")
        return f"{repo} cannot be uploaded, for {endpoint} {why}."
    if isinstance(error, HTTPError | ConnectionError | TimeoutError):
        reason = str(error).rstrip(".") or type(error).__name__
        return (
            f"{endpoint} cannot be reached ({reason}): check the network, and start the same command again; "
            "what arrived already is not sent twice."
        )
    if isinstance(error, ValueError):  # the card's front matter, or the store of large files
        return f"{endpoint} refuses {repo} ({' '.join(str(error).split())[:300].rstrip('.')}): correct that first."
    return None
