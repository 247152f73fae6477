"""Which network a source holds, with which hyperparameters."""
