"""What converting a checkpoint costs: beside a plain script, and from every kind of source."""
