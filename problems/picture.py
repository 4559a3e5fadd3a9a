"""Pictures of problems with two parameters."""

import math
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from problems.problem import Array, Instance, Parameters, Problem

_COLORS = ("#e4572e", "#f3a712", "#29bf89", "#d65db1")


def _optimizers() -> dict[str, Callable]:
    import optax

    return {
        "sgd": optax.sgd,
        "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
        "rmsprop": optax.rmsprop,
        "adam": optax.adam,
    }


def _flat(parameters: Parameters) -> Array:
    return jnp.concatenate([tensor.reshape(-1) for tensor in parameters])


def _unflat(point: Array, shapes: tuple[tuple[int, ...], ...]) -> Parameters:
    sizes = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return tuple(p.reshape(s) for p, s in zip(jnp.split(point, sizes), shapes, strict=True))


def paths(
    problem: Problem, instance: Instance, start: Parameters, key: Array, steps: int
) -> dict[str, tuple[float, np.ndarray]]:
    """Runs each optimizer at its best learning rate on the gradients of one run.

    Returns:
      For each optimizer its learning rate and its points (steps + 1, 2). The rates are 10^-4 ..
      10^0 in half decades, for sgd and momentum over the first gradient's norm; the best has the
      smallest mean objective over the last tenth of the steps.
    """
    batches = problem.batches(key, 0, steps, instance)
    first = problem.gradient(start, instance, jax.tree.map(lambda leaf: leaf[0], batches))
    scale = 1 / (1e-12 + float(jnp.linalg.norm(_flat(first))))

    def run(make: Callable, rate: Array) -> tuple[Array, Array]:
        optimizer = make(rate)

        def step(carry, batch):
            parameters, state = carry
            gradient = problem.gradient(parameters, instance, batch)
            updates, state = optimizer.update(gradient, state)
            parameters = tuple(p + u for p, u in zip(parameters, updates, strict=True))
            value = problem.objective(parameters, instance)
            return (parameters, state), (_flat(parameters), value)

        _, (points, values) = jax.lax.scan(step, (start, optimizer.init(start)), batches)
        late = jnp.mean(values[-max(1, steps // 10) :])
        return points, jnp.where(jnp.isfinite(late), late, jnp.inf)

    found = {}
    for name, make in _optimizers().items():
        rates = 10.0 ** np.arange(-4, 0.5, 0.5)
        if name in ("sgd", "momentum"):
            rates = rates * scale
        points, late = jax.jit(jax.vmap(lambda rate, make=make: run(make, rate)))(
            jnp.asarray(rates, jnp.float32)
        )
        best = int(jnp.argmin(late))
        track = np.concatenate([np.asarray(_flat(start))[None], np.asarray(points[best])])
        found[name] = float(rates[best]), track
    return found


def draw(problem: Problem, path: str | pathlib.Path, steps: int = 300, seed: int = 0) -> None:
    """Draws the surface of a 2-D problem, and on it the paths of four optimizers, to a PNG.

    Args:
      problem: a problem with two parameters in all.
      path: the file to write.
      steps: the length of the paths.
      seed: of the instance, the start and the gradients' noise.

    Raises:
      ValueError: the problem has another number of parameters.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib import colors, patheffects

    count = sum(math.prod(shape) for shape in problem.shapes)
    if count != 2:
        raise ValueError(f"show: {problem} has {count} parameters; a picture needs 2.")
    instance_key, start_key, run_key = jax.random.split(jax.random.key(seed), 3)
    instance = problem.sample_instance(instance_key)
    start = problem.initial_parameters(start_key, instance)
    tracks = paths(problem, instance, start, run_key, steps)

    low, high = _window(problem, instance, [track for _, track in tracks.values()])
    axes_points = [np.linspace(low[i], high[i], 300) for i in range(2)]
    grid = np.stack(np.meshgrid(*axes_points), axis=-1)
    surface = jax.jit(
        jax.vmap(lambda point: problem.objective(_unflat(point, problem.shapes), instance))
    )
    values = np.asarray(surface(jnp.asarray(grid.reshape(-1, 2), jnp.float32))).reshape(300, 300)

    # Levels at quantiles: every shade covers as much area, be the heights even or over decades.
    levels = np.unique(np.quantile(values, np.linspace(0, 1, 29)))
    figure, axes = plt.subplots(figsize=(8, 6.4), layout="constrained")
    shades = axes.contourf(
        *axes_points,
        values,
        levels=levels,
        cmap="bone",
        norm=colors.BoundaryNorm(levels, 256, extend="neither"),
    )
    axes.contour(*axes_points, values, levels=levels, colors="black", linewidths=0.3, alpha=0.35)
    halo = [patheffects.withStroke(linewidth=3.2, foreground="black", alpha=0.55)]
    for color, (name, (rate, track)) in zip(_COLORS, tracks.items(), strict=True):
        line = {"color": color, "path_effects": halo}
        axes.plot(*track.T, lw=1.7, label=f"{name}, rate {rate:.2g}", **line)
        axes.plot(*track[-1], marker="o", ms=7, mec="black", mew=0.8, color=color, zorder=5)
    begin = next(iter(tracks.values()))[1][0]
    axes.plot(
        *begin, marker="*", ms=15, color="white", mec="black", ls="", label="start", zorder=6
    )
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="$x$", ylabel="$y$")
    axes.set_title(f"{problem}, {steps} steps")
    ticks = levels[:: max(1, len(levels) // 7)]
    bar = figure.colorbar(shades, ax=axes, pad=0.02, ticks=ticks)
    bar.ax.set_yticklabels([f"{tick:.3g}" for tick in ticks])
    bar.set_label("objective")
    axes.legend(loc="best", framealpha=0.9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _window(
    problem: Problem, instance: Instance, tracks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The corners (2,), (2,) of a box around starts and paths, without the wildest excursions."""
    starts = jax.vmap(lambda key: _flat(problem.initial_parameters(key, instance)))(
        jax.random.split(jax.random.key(0), 256)
    )
    low, high = np.quantile(np.asarray(starts), [0.02, 0.98], axis=0)
    reach = 0.5 * (high - low)
    for track in tracks:
        finite = track[np.all(np.isfinite(track), axis=1)]
        inside = finite[np.all((finite > low - reach) & (finite < high + reach), axis=1)]
        if len(inside):
            low, high = np.minimum(low, inside.min(axis=0)), np.maximum(high, inside.max(axis=0))
    margin = 0.05 * (high - low)
    return low - margin, high + margin
