"""Declarative name-mapping tables: data only. `README.md` in this folder explains their grammar."""
