"""What an iOS version decides; macOS 14 is iOS 17, and macOS 15 is iOS 18."""

from __future__ import annotations

OLDEST = 17

BLOCKS = 18
"""The first that has a scale for each block of a row, which int4 weights need."""

SHARING = 18
"""The first whose packages hold several functions over one set of weights."""

SPECIFICATIONS = {17: 8, 18: 9}
"""Version of the model's specification."""

OPERATORS = {17: "CoreML7", 18: "CoreML8"}
"""Set of operators."""
