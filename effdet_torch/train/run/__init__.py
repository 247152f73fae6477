"""What a run folder holds, apart from the models and the state: numbers, curves, pictures, a page, the settings."""
