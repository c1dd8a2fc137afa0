"""Models as safetensors files: weights, and as metadata the size of the network and where it came from."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ss3d_lib.files import atomic_write
from ss3d_lib.models import ClipNet

FORMAT = "ss3d-clipnet-2"  # the one key of the metadata: safetensors writes several in an order that changes


def save_model(model: ClipNet, path: str | Path, metadata: dict[str, str | int | float] | None = None) -> None:
    """Write weights and metadata; the bytes depend on nothing else."""
    meta = {FORMAT: json.dumps((metadata or {}) | {"size": model.size}, sort_keys=True)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary, meta)


def load_model(path: str | Path) -> ClipNet:
    """The network of a checkpoint, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: run the stage that writes it (`dvc repro`), fetch what comes with the "
            "repository (`make data`), or give another path"
        )
    if path.is_dir():
        raise ValueError(f"checkpoint {path} is a folder: give the .safetensors file in it")
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            if FORMAT not in meta:
                raise ValueError(
                    f"{path} is not a {FORMAT} checkpoint: give a model.safetensors written by this project"
                )
            model = ClipNet(json.loads(meta[FORMAT])["size"])
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    except (SafetensorError, OSError, RuntimeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint {path} cannot be read ({str(error)[:200]}): make it again or fetch it with `dvc pull`"
        ) from error
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise ValueError(f"checkpoint {path} holds weights that are not finite: make it again or fetch it with `dvc pull`")
    return model.eval()
