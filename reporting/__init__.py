"""What is told of networks: the results table, the verdict, the HTML report, model cards, predictions drawn."""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from reporting.predict import PredictOptions, find_sources, predict, predict_side_by_side
    from reporting.tables import short_names

__all__ = ["PredictOptions", "find_sources", "predict", "predict_side_by_side", "short_names"]

lazily(__name__)
