"""What is told of networks: the results table, the verdict, the HTML report, model cards, predictions drawn."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from reporting.predict import PredictOptions, predict
    from reporting.tables import short_names

__all__ = ["PredictOptions", "predict", "short_names"]

lazily(__name__)
