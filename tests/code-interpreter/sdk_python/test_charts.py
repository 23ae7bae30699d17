"""What figures tell of themselves: one for each model of the SDK."""

import pytest
from e2b_code_interpreter.charts import ChartType, ScaleType

LIMIT = {"timeout": 240.0}


@pytest.fixture
def chart_of(sandbox):
    def chart_of(code: str):
        execution = sandbox.run_code(f"import matplotlib.pyplot as plt\n{code}\nplt.show()", **LIMIT)
        assert execution.error is None, execution.error.traceback
        (result,) = execution.results
        assert result.png
        return result.chart

    return chart_of


def test_points(chart_of):
    chart = chart_of("plt.scatter([1, 2], [10, 100], label='dots'); plt.yscale('log'); plt.axvline(1.5)")
    assert (chart.type, chart.x_scale, chart.y_scale) == (ChartType.SCATTER, ScaleType.LINEAR, ScaleType.LOG)
    assert [(dots.label, dots.points) for dots in chart.elements] == [("dots", [(1.0, 10.0), (2.0, 100.0)])]
    code = "import datetime\nplt.plot([datetime.date(2024, 1, 1), datetime.date(2024, 3, 1)], ['low', 'high'])"
    chart = chart_of(code)
    assert (chart.type, chart.x_scale, chart.y_scale) == (ChartType.LINE, ScaleType.DATETIME, ScaleType.CATEGORICAL)
    assert chart.elements[0].points == [("2024-01-01", "low"), ("2024-03-01", "high")]
    assert chart.x_ticks[0].startswith("2024-01-01") and chart.y_tick_labels == ["low", "high"]


def test_bars(chart_of):
    chart = chart_of("plt.barh(['a', 'b'], [1, 2], label='one'); plt.barh(['a', 'b'], [3, 4], left=[1, 2], label='two')")
    assert chart.type == ChartType.BAR
    bars = [(bar.group, bar.label, bar.value) for bar in chart.elements]
    assert bars == [("one", "a", 1), ("one", "b", 2), ("two", "a", 3), ("two", "b", 4)]


def test_a_pie(chart_of):
    chart = chart_of("plt.pie([90, 10], labels=['most', 'rest'], startangle=90); plt.title('Shares')")
    assert (chart.type, chart.title) == (ChartType.PIE, "Shares")
    assert [(part.label, part.angle, part.radius) for part in chart.elements] == [("most", 324, 1), ("rest", 36, 1)]


def test_boxes(chart_of):
    chart = chart_of("plt.boxplot([[1, 2, 3, 4, 5, 30], [2, 2, 2]], tick_labels=['wide', 'narrow'])")
    assert chart.type == ChartType.BOX_AND_WHISKER
    wide, narrow = chart.elements
    assert (wide.label, wide.min, wide.first_quartile, wide.median) == ("wide", 1.0, 2.25, 3.5)
    assert (wide.third_quartile, wide.max, wide.outliers) == (4.75, 5.0, [30.0])
    assert (narrow.label, narrow.median, narrow.outliers) == ("narrow", 2.0, [])


def test_several_at_once_and_none(chart_of):
    chart = chart_of(
        "figure, (left, right, empty) = plt.subplots(1, 3)\nfigure.suptitle('Both')\n"
        "left.plot([1, 2]); left.set_title('L'); right.imshow([[1, 2]]); right.set_title('R')"
    )
    assert (chart.type, chart.title) == (ChartType.SUPERCHART, "Both")
    assert [(one.type, one.title) for one in chart.elements] == [(ChartType.LINE, "L"), (ChartType.UNKNOWN, "R")]
    assert chart_of("plt.subplots()") is None
