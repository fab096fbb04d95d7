"""What changes anew in each training step or each read."""

from keras_rram.noise.injection import NoiseInjection, read_noise, reseed

__all__ = ["NoiseInjection", "read_noise", "reseed"]
