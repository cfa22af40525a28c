"""What the machine lacks is passed over on a laptop, and fails in CI."""

from __future__ import annotations

import pytest

from tests.support import machine


def test_a_laptop_may_lack_what_a_test_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "IN_CI", False)

    machine.needs("sh")
    with pytest.raises(pytest.skip.Exception, match="no such-a-program here"):
        machine.needs("sh", "such-a-program")


def test_what_lands_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "IN_CI", True)

    with pytest.raises(pytest.fail.Exception, match="no such-a-program here"):
        machine.needs("such-a-program")
