"""One-pass tuning in training loops that are not ours; each module imports its own framework and is imported by name.

nestgrad_integrations.live: a loop of one's own in torch. nestgrad_integrations.lightning and
nestgrad_integrations.transformers: callbacks. In jax, nestgrad_jax.OnePass takes flax's and equinox's trees as they
are.
"""

from nestgrad_integrations._errors import StepMismatch as StepMismatch

__version__ = "0.1.0"
