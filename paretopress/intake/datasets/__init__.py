"""The user's data: splits, items, batches, and what names them."""
