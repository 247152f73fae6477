"""Why a layer differs."""
