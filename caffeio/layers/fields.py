"""Guard against fields of forks that a layer does not know: never left out in silence."""

from __future__ import annotations

from collections.abc import Collection

from caffeio.layers.base import ENGINE_CHOICES, LayerType


def check_fields(owner: LayerType, field: str, known: Collection[str]) -> None:
    """Raise LayerError if message `field` of the layer sets more than `known` and engines.

    A field that is set to its own default says nothing and is let through.
    """
    for descriptor, value in getattr(owner.param, field).ListFields():
        name = descriptor.name
        if name in known or name in ENGINE_CHOICES:
            continue
        plain = isinstance(value, int | float | str)
        if not (plain and descriptor.has_default_value and value == descriptor.default_value):
            raise owner.error("is a fork's field that is not supported", field=f"{field}.{name}")
