"""Fixtures for tests of kernels: fresh random numbers in every run, whose seed is printed where a test fails."""

from __future__ import annotations

import random

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> int:
    drawn = random.SystemRandom().randrange(2**31)
    torch.manual_seed(drawn)
    print(f"torch.manual_seed({drawn})")
    return drawn
