"""A network in a file of another program's format: written, quantised, opened, timed."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from export.opening import class_names, in_classes_of, input_size, open_chosen, open_model

__all__ = ["class_names", "input_size", "open_chosen", "open_model", "in_classes_of"]

lazily(__name__)
