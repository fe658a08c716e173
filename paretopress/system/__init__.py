"""Files, caches, clocks, seeds and events; nothing here knows a model."""
