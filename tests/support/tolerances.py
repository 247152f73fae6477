"""All tolerances of the tests, each with its reason: max |found - expected| over rms(expected)."""

# Float64 proves the mapping: two correct implementations differ by rounding alone (measured 3e-15 to 2e-13).
FLOAT64 = 1e-11

# Float32 on random input: the official code's own float32 is up to 4e-5 from its float64.
FLOAT32_RANDOM_INPUT = 1e-4

# Float32 on a padded photograph: the squeeze-excite mean over a large constant area rounds; official float32 is 3e-4
# from its own float64 there, the trained checkpoint's stored result is reached within this.
FLOAT32_REAL_IMAGE = 2e-4
