"""A fixer of fissix: ur'...' and the like, which Python 3 does not read."""

from __future__ import annotations

import re
from typing import Any

from fissix import fixer_base
from fissix.pgen2 import token

_RAW = re.compile(r"""^[uU]([rR]["'])""")


class FixLiterals(fixer_base.BaseFix):
    """Takes the u of ur'...' away."""

    BM_compatible = True
    PATTERN = "STRING"  # type: ignore[assignment]

    def transform(self, node: Any, results: Any) -> Any:
        """The new leaf, or None."""
        if node.type == token.STRING and (match := _RAW.match(node.value)):
            new = node.clone()
            new.value = _RAW.sub(match[1], node.value)
            return new
        return None
