"""What a LoRA file says about itself: the texts of its header, read without its tensors and without torch."""

from __future__ import annotations

import json

from pipelines.errors import UserError

MAX_LORA_MB = 512
DAMAGED = "This LoRA file is damaged or no safetensors file; choose a file that ends in .safetensors and is complete."


def read_about(data: bytes) -> dict[str, str]:
    """Read the texts of a file's header.

    Raises: UserError with one sentence if the bytes are no safetensors file.
    """
    refuse_others(data)
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        return {str(key): str(value) for key, value in dict(header.get("__metadata__", {})).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(DAMAGED) from error


def refuse_others(data: bytes) -> None:
    """Refuse what is no safetensors file, by its first bytes."""
    if len(data) > MAX_LORA_MB * 2**20:
        raise UserError(f"This file has {len(data) / 2**20:.0f} MB; choose a LoRA of at most {MAX_LORA_MB} MB.")
    # A safetensors file begins with the length of its header, which may look like any magic number, then the header.
    if data[8:9] != b"{" and (data[:1] == b"\x80" or data[:2] == b"PK"):
        raise UserError("This file is a pickle, which can run programs and is not opened; convert it to safetensors.")
    if len(data) < 10 or data[8:9] != b"{":
        raise UserError(DAMAGED)
