"""The step once more, in plain numpy, tensor by tensor, written from the paper's equations.

It shares no line with the package: float64, no padding, no buffers, no fused products.
"""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(meta, name, x, h, bias):
    """One GRU step: x (n,), h (m,), injected bias (3 m,)."""
    m = len(h)
    gates = np.concatenate([x, h]) @ meta[f"{name}/gates_kernel"] + meta[f"{name}/gates_bias"]
    r, u = sigmoid(gates[:m] + bias[:m]), sigmoid(gates[m:] + bias[m : 2 * m])
    c = np.tanh(
        np.concatenate([x, r * h]) @ meta[f"{name}/candidate_kernel"]
        + meta[f"{name}/candidate_bias"] + bias[2 * m :])
    return u * h + (1 - u) * c


class Switches:
    """The switches of the network and of the rules around it, all in one."""

    def __init__(self, config):
        rules = {rule.NAME: rule for rule in config.rules}
        self._core = config.core
        self.alignment_control = "alignment" in rules
        self.step_size = "learned" if config.core.unit_direction else "normalized"
        rescaling = rules.get("rescaling")
        self.update_scale_decay = rescaling.decay if rescaling else 0.0
        self.bounded_updates = bool(rescaling) and rescaling.bounded
        self.width_exponent = rescaling.width_exponent if rescaling else 0.0

    def __getattr__(self, name):
        return getattr(self._core, name)


class Turned:
    """The turned axes of one tensor."""

    def __init__(self, shape, limit, cut=False):
        self.matrix = (int(np.prod(shape[:-1])), shape[-1]) if len(shape) > 1 else (1, 1)
        self.moments = [np.zeros((n, n)) for n in self.matrix]
        self.axes = [np.eye(n) for n in self.matrix]
        self.parts = [self._parts(*sides, limit, cut) for sides in (self.matrix, self.matrix[::-1])]
        self.steps = 0

    @staticmethod
    def _parts(n, across, limit, cut):
        """What is turned together."""
        if n < 2 or (n > limit and (not cut or across < limit or n > 10 * across)):
            return []
        size = math.ceil(n / math.ceil(n / limit))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def observe(self, gradient):
        x = gradient.reshape(self.matrix) if any(self.parts) else np.ones((1, 1))
        t, self.steps = self.steps, self.steps + 1
        for i, square in enumerate((x @ x.T, x.T @ x)):
            keep = min(t / (t + 1), 0.999)
            self.moments[i] = keep * self.moments[i] + (1 - keep) * square / (x**2).sum()
            for part in self.parts[i] if t < 10 or t % 10 == 0 else []:
                axes = self.axes[i][part, part]
                q, r = np.linalg.qr(self.moments[i][part, part] @ axes + 1e-6 * axes)
                self.axes[i][part, part] = q * np.where(np.diag(r) < 0, -1, 1)

    def turn(self, x, back=False):
        left, right = self.axes
        if not any(self.parts):
            return x
        matrix = x.reshape(self.matrix)
        matrix = left @ matrix @ right.T if back else left.T @ matrix @ right
        return np.where(abs(matrix) > 1e-4 * abs(x).max(), matrix, 0).reshape(x.shape)


class Reference:
    """The whole optimizer on a list of tensors.

    Args:
        meta: meta-parameters by name.
        config: of the network and the rules.
        sizes: number of parameters of each tensor.
        log_rates: initial log learning rate of each tensor's parameters.
    """

    def __init__(self, meta, config, sizes, log_rates):
        self.meta = {name: np.asarray(array, "float64") for name, array in meta.items()}
        self.config = config = Switches(config)

        def start(name, units):
            return self.meta[name] if config.learned_start_vectors else np.zeros(units)

        scales = config.time_scales
        self.tensors = [
            {
                "h0": np.tile(start("parameter_start", config.parameter_units), (n, 1)),
                "average": np.zeros((n, scales)),
                "square": np.zeros((n, scales)),
                "b_g": np.zeros(n),
                "b_l": np.zeros(n),
                "eta_bar": np.array(rates, "float64"),
                "squares": [],
                "h1": start("tensor_start", config.tensor_units) if config.tensor_units else None,
            }
            for n, rates in zip(sizes, log_rates)
        ]
        self.h2 = start("global_start", config.global_units) if config.global_units else None
        self.log_step_size, self.steps = 0.0, 0

    def step(self, gradients, offsets=None):
        """Updates and attended updates of the tensors; None where the gradient is None.

        offsets: of the average from where the gradients are, for each tensor.
        """
        config, meta = self.config, self.meta
        mean_rate = np.concatenate([t["eta_bar"] for t in self.tensors]).mean()
        results, old_h2 = [], self.h2
        for tensor, gradient in zip(self.tensors, gradients):
            if gradient is None:
                results.append((None, None))
                continue
            n = len(gradient)
            for j in range(n):
                d = tensor["b_g"][j] if config.time_scales > 1 else 0.0
                for s in range(config.time_scales):
                    tensor["average"][j, s] = (1 - d) * gradient[j] + d * tensor["average"][j, s]
                    d = np.sqrt(d)
            average = tensor["average"]
            for s in range(config.time_scales):
                b_l = tensor["b_l"] if tensor["square"][:, s].any() else np.zeros(n)
                tensor["square"][:, s] = (1 - b_l) * (average[:, s] ** 2 + 1e-12) + b_l * tensor[
                    "square"][:, s]
            m = np.arcsinh(average / np.sqrt(tensor["square"] + 1e-16))

            features = [m]
            if config.gradient_products:
                features.append(m[:, :-1] * m[:, 1:])
            if config.relative_log_mean_squares:
                logs = np.log(tensor["square"] + 1e-16)
                features.append(logs - logs.mean(axis=1, keepdims=True))
            if config.relative_learning_rate != "off" and config.dynamic_output_scale:
                mean = mean_rate if config.relative_learning_rate == "model" else tensor[
                    "eta_bar"].mean()
                features.append(tensor["eta_bar"][:, None] - mean)
            x = np.concatenate(features, axis=1)

            bias = np.zeros(3 * config.parameter_units)
            if config.tensor_units:
                bias = bias + tensor["h1"] @ meta["tensor_to_parameter_kernel"] + meta[
                    "tensor_to_parameter_bias"]
            if config.global_units:
                bias = bias + old_h2 @ meta["global_to_parameter_kernel"] + meta[
                    "global_to_parameter_bias"]
            h0 = np.stack([
                gru(meta, "parameter_rnn", x[j], tensor["h0"][j], bias) for j in range(n)])
            tensor["h0"] = h0
            if config.tensor_units:
                bias = np.zeros(3 * config.tensor_units)
                if config.global_units:
                    bias = old_h2 @ meta["global_to_tensor_kernel"] + meta["global_to_tensor_bias"]
                tensor["h1"] = gru(
                    meta, "tensor_rnn", np.concatenate([h0, x], axis=1).mean(axis=0), tensor["h1"],
                    bias)

            if config.learnable_scale_decay:
                tensor["b_l"] = sigmoid(
                    h0 @ meta["scale_decay_weights"] + meta["scale_decay_bias"])
            else:
                tensor["b_l"] = np.full(n, 0.93)
            if config.learnable_input_decay and config.time_scales > 1:
                tensor["b_g"] = sigmoid(
                    h0 @ meta["input_decay_weights"] + meta["input_decay_bias"])
            else:
                tensor["b_g"] = np.full(n, 0.89)
            change = h0 @ meta["learning_rate_weights"] + meta["learning_rate_bias"]
            results.append((
                self._update(tensor, h0, m, change, "direction"),
                self._update(tensor, h0, m, change, "attention") if config.lookahead else None,
            ))
            if config.dynamic_output_scale:
                gamma = sigmoid(meta["learning_rate_momentum_logit"])
                tensor["eta_bar"] = gamma * tensor["eta_bar"] + (1 - gamma) * self._log_rate(
                    tensor, change)
        if config.global_units:
            h1 = [t["h1"] for t, g in zip(self.tensors, gradients) if g is not None]
            self.h2 = gru(
                meta, "global_rnn", np.mean(h1, axis=0), old_h2, np.zeros(3 * config.global_units))
        if config.alignment_control:
            self._align(*(np.concatenate(parts) for parts in zip(*(
                (g, x, tensor["square"][:, 0] - 1e-12)
                for g, x, tensor in zip(gradients, offsets, self.tensors) if g is not None))))
        return results

    def _align(self, g, x, usual):
        meta = self.meta
        self.steps += 1
        if not g.any() or not x.any():
            return
        metric = np.sqrt(np.maximum(usual, 1e-20))
        cosine = g @ x / np.sqrt(g @ (g / metric)) / np.sqrt(x @ (x * metric))
        push = np.tanh(meta["alignment_slope"] * (cosine - meta["alignment_target"]))
        growth = "growth_" if push > 0 else ""
        delay, steps, growth_steps = (np.exp(meta[f"alignment_log_{name}"]) for name in (
            "delay", f"{growth}steps", "growth_steps"))
        gain = meta["alignment_gain"] / (self.steps + delay) / (1 + self.steps / steps)
        fall = meta["alignment_decay"] / (self.steps + growth_steps)
        self.log_step_size += gain * push - fall

    def _log_rate(self, tensor, change):
        bound = 6 if self.config.step_size == "normalized" else 33
        return np.clip(tensor["eta_bar"] + change, -bound, bound)

    def _update(self, tensor, h0, m, change, name):
        meta, config = self.meta, self.config
        d = h0 @ meta[f"{name}_weights"]
        if config.gradient_shortcut:
            d = d + m @ meta[f"{name}_shortcut"]
        if not config.dynamic_output_scale:
            return 2 * sigmoid(change) * d
        eta = self._log_rate(tensor, change)
        if config.step_size == "normalized":
            u = np.exp(eta) * d
            factor = np.exp(self.log_step_size)
            if config.update_scale_decay:
                tensor["squares"].insert(0, (u**2).mean())
                weights = config.update_scale_decay ** np.arange(len(tensor["squares"]))
                square = np.average(tensor["squares"], weights=weights)
                if config.bounded_updates:
                    square = max(square, tensor["squares"][0])
                return factor * u / np.sqrt(square + 1e-16)
            return factor * u / np.sqrt((u**2).mean() + 1e-16)
        offset = meta["step_size_offset"] if name == "direction" else 0.0
        return np.exp(eta + offset) * d / np.sqrt((d**2).mean() + 1e-16)
