"""Who owns parameters, gradients and the step: one protocol, and the engines that keep it."""
