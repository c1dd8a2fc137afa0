"""Interactive figures, each with a static twin: an executed copy has no kernel to answer a slider.

A widget is a function from slider values to a Figure. Where nobody can move a slider (an executed notebook, a
script) the twin alone is shown: the same function at a few values, side by side in time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ss3d_lib.progress import is_live


@dataclass(frozen=True)
class Slider:
    """A slider from low to high, at `start` when the notebook opens."""

    low: float
    high: float
    start: float
    step: float
    label: str


def explore(draw: Callable[..., Figure], sliders: Mapping[str, Slider], twin: Figure):
    """Show `draw(**values)` under sliders where there is somebody to move them, else the static twin.

    Args:
        draw: takes one keyword per slider and returns a new Figure.
        sliders: by the keyword that they set.
        twin: what an executed copy shows.

    Returns:
        The widget or the twin; make it the last value of a cell.
    """
    for name, slider in sliders.items():
        if not slider.low <= slider.start <= slider.high:
            raise ValueError(
                f"slider {name!r} starts at {slider.start}: choose a value in [{slider.low}, {slider.high}]"
            )
    return live_figure(draw, sliders) if is_live() else twin


def live_figure(draw: Callable[..., Figure], sliders: Mapping[str, Slider]):
    """Sliders above a figure that is drawn again when one of them is let go (an ipywidgets box)."""
    import ipywidgets

    style = {"description_width": "12em"}
    controls = {
        name: ipywidgets.FloatSlider(
            value=s.start, min=s.low, max=s.high, step=s.step, description=s.label, continuous_update=False, style=style,
            layout=ipywidgets.Layout(width="36em"),
        )
        for name, s in sliders.items()
    }  # fmt: skip

    def show(**values: float) -> None:
        from IPython.display import display

        figure = draw(**values)
        plt.close(figure)  # or the inline backend shows it a second time
        display(figure)

    return ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(show, controls)])
