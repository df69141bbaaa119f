"""A quick start: what is not collected while things are loaded is collected again afterwards."""

from __future__ import annotations

import gc

import pytest

from pipelines import UserError, collect_no_garbage


def test_garbage_is_collected_again_after_loading_even_if_it_fails() -> None:
    with pytest.raises(UserError), collect_no_garbage():
        assert not gc.isenabled()
        raise UserError("no such model")
    assert gc.isenabled()
